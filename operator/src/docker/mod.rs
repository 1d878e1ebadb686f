//! The one client of the Docker API that `source` and `deliver` share: connection, TLS, diagnosis, counting.
