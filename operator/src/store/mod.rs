//! Store: what must survive a restart of the operator, in a directory, written atomically.
