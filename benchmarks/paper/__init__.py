"""The tables of the LCCL paper: its networks and their plain twins, trained and measured beside what was published."""
