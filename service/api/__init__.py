"""The protocols: how requests are read and answers written, one folder for each."""
