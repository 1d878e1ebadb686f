//! Sequences of events, lists and answers, good and bad.
