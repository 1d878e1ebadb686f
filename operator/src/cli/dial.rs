//! `interlock dial-stdio`: standard input and output as a connection to the operator, for contexts with `ssh://`.

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use super::OK;
use super::args::ApiArgs;
use super::failure::Failure;
use crate::settings::{Environment, Flags, Settings};

/// Carries bytes both ways until the operator has said everything, or nobody asks any more.
pub(super) fn run(args: &ApiArgs, environment: &Environment) -> Result<u8, Failure> {
    let flags = Flags { config: args.config.clone(), api: args.api.clone(), ..Flags::default() };
    let socket = Settings::load(&flags, environment)?.api;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let stream = UnixStream::connect(&socket).await.map_err(|error| {
            Failure::new(format!("no operator listens on `{}`: {error}", socket.display()))
        })?;
        let (mut from, mut to) = stream.into_split();
        let asks = async {
            tokio::io::copy(&mut tokio::io::stdin(), &mut to).await?;
            to.shutdown().await
        };
        let mut out = tokio::io::stdout();
        let answers = async {
            tokio::io::copy(&mut from, &mut out).await?;
            out.flush().await
        };
        tokio::pin!(asks, answers);
        // Who has asked everything still wants the answer.
        let ended = tokio::select! {
            ended = &mut answers => ended,
            asked = &mut asks => match asked {
                Ok(()) => answers.await,
                Err(error) => Err(error),
            },
        };
        ended.map_err(Failure::from)
    });
    // A read of standard input cannot be called back, and must not hold up the end.
    runtime.shutdown_background();
    done.map(|()| OK)
}
