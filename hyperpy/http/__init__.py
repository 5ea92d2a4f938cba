"""HTTP: the wire form of messages, the server and the client for peers."""
