"""HPI-1: language models computed in integers, so that every machine gets the same bits.

Everything below the tokenizer is integer arithmetic with one right answer (the specification is
HPI-1; section numbers in this package are its sections). What to read first is ``reference.py``:
the forward pass, in NumPy, written to be read.

    gguf        read a GGUF v3 file: bounded, hostile input refused with reasons
    blocks      the file's quantised blocks as exact integers (4.2)
    weights     integer weights, model-id and weight-root (4, 12)
    tables      constants, made with exact integers and checked by hash (3)
    arith       rounding shifts and saturation on NumPy arrays (1)
    reference   the engine that is the specification (5)
    cpu         the same bits from compiled loops on all cores
    sampler     greedy and seeded choice of the next token (9)
    tokenizer   text to ids and back; chats without injected special tokens (10)
    generation  prompt in, tokens out, a state hash for every token (12)
    trees       Merkle trees, their paths, mountain ranges (12)
    commitments roots of every op, layer, token and cache (12)
    documents   JSON that is read alike on every machine
    statements  what is signed of a computation; evidence: one value of it, opened (13)
    judging     one value computed again, from evidence alone (13)
    traces      a computation that answers questions; disputes: from ids to one value; openings: parts of evidence
    library     models on disk: import, verify, list, remove
    toy         a seeded little model for tests and self-tests
"""
