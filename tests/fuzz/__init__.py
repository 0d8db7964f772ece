"""Bytes that strangers might send, made from good ones by damage, until something fails that must not."""
