//! Waiting for something to become true, with a deadline, instead of sleeping.

use std::time::{Duration, Instant};

use crate::Result;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// Tries `attempt` until it succeeds; after `deadline` its last error ends the test, `what` in front.
pub async fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        let error = match tokio::time::timeout(deadline, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_) => "a try took longer than the deadline".into(),
        };
        if begin.elapsed() >= deadline {
            return Err(format!("{what}: not within {deadline:?}; in the end: {error}").into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Fails as soon as `attempt` does; succeeds when it has held for `span`.
pub async fn throughout(span: Duration, what: &str, mut attempt: impl AsyncFnMut() -> Result) -> Result {
    let begin = Instant::now();
    while begin.elapsed() < span {
        attempt().await.map_err(|error| format!("{what}: after {:?}: {error}", begin.elapsed()))?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
