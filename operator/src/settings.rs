//! Settings: the configuration file, flags and environment, joined into one value with every default.
