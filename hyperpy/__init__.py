"""hyperpy: an AO-Core device host whose every result can be replayed."""
