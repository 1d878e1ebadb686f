//! Reconcile: the level-triggered loop that joins sources, core and deliver.
