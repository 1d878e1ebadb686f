//! Contexts: operators by name, so that commands reach one on another machine.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::OK;
use super::args::{ContextCommand, ContextsArgs, Reach, SetContextArgs};
use super::failure::Failure;
use super::output::{Output, Tone};
use crate::client::{Client, Way};
use crate::settings::{Environment, Flags, Invalid, Settings};
use crate::yaml;

/// Every operator that has a name, as the file has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Contexts {
    /// The one that is asked where nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current_context: Option<String>,
    #[serde(default)]
    contexts: Vec<Context>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Context {
    name: String,
    /// `unix:///run/interlock/api.sock`, or `ssh://user@host`.
    api: String,
    /// What runs `interlock` on that host; `interlock` itself where nothing is said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    command: Vec<String>,
}

/// How the operator is reached that flags, a context or the configuration name, in this order.
pub(super) fn client(reach: Reach<'_>, environment: &Environment) -> Result<Client, Failure> {
    Ok(Client::by(match named(&reach, environment)? {
        Some(context) => way(&context)?,
        None => Way::Socket(socket(&reach, environment)?),
    }))
}

/// The context that counts: none where a socket or a configuration is named.
pub(super) fn is_named(reach: &Reach<'_>, environment: &Environment) -> Result<bool, Failure> {
    Ok(named(reach, environment)?.is_some())
}

fn socket(reach: &Reach<'_>, environment: &Environment) -> Result<PathBuf, Failure> {
    let flags = Flags {
        config: reach.config.map(Path::to_owned),
        api: reach.api.map(str::to_owned),
        ..Flags::default()
    };
    Ok(Settings::load(&flags, environment)?.api)
}

fn named(reach: &Reach<'_>, environment: &Environment) -> Result<Option<Context>, Failure> {
    let elsewhere = reach.api.is_some() || reach.config.is_some() || environment.config.is_some();
    if reach.context.is_none() && elsewhere {
        return Ok(None);
    }
    let (path, all) = read(environment)?;
    let Some(name) = reach.context.map(str::to_owned).or(all.current_context) else { return Ok(None) };
    all.contexts.into_iter().find(|context| context.name == name).map(Some).ok_or_else(|| {
        Failure::new(format!("there is no context `{}` in {}", name.escape_debug(), path.display()))
            .hint("`interlock config get-contexts` lists them, `interlock config set-context NAME --api URL` adds one")
    })
}

fn way(context: &Context) -> Result<Way, Failure> {
    let bad = |why: &str| {
        Failure::new(format!(
            "the address `{}` of context `{}` {why}",
            context.api.escape_debug(),
            context.name
        ))
        .hint("write `unix:///run/interlock/api.sock` or `ssh://user@host`")
    };
    if let Some(path) = context.api.strip_prefix("unix://") {
        return if path.starts_with('/') {
            Ok(Way::Socket(path.into()))
        } else {
            Err(bad("is no absolute path"))
        };
    }
    let host = context.api.strip_prefix("ssh://").ok_or_else(|| bad("is of no kind that is known"))?;
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, Some(port)),
        _ => (host, None),
    };
    let good = |c: char| c.is_ascii_alphanumeric() || "-._@".contains(c);
    if host.is_empty() || host.starts_with('-') || !host.chars().all(good) {
        return Err(bad("names no host"));
    }
    let mut words: Vec<String> = ["ssh", "-T"].map(str::to_owned).into();
    words.extend(port.into_iter().flat_map(|port| ["-p".to_owned(), port.to_owned()]));
    words.extend(["--".to_owned(), host.to_owned()]);
    if context.command.is_empty() {
        words.push("interlock".to_owned());
    }
    words.extend(context.command.iter().cloned());
    words.push("dial-stdio".to_owned());
    Ok(Way::Command(words))
}

/// The file, and what it says; one that is not there says nothing.
fn read(environment: &Environment) -> Result<(PathBuf, Contexts), Failure> {
    let path = environment.contexts();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((path, Contexts::default())),
        Err(error) => return Err(Failure::new(format!("{} cannot be read: {error}", path.display()))),
    };
    let contexts = yaml::from_str(&text)
        .map_err(|error| Failure::new(Invalid::of(path.display().to_string(), &text, error)))?;
    Ok((path, contexts))
}

fn write(path: &Path, contexts: &Contexts) -> Result<(), Failure> {
    let text = yaml::to_string(contexts).map_err(Failure::new)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = fs::create_dir_all(folder).and_then(|()| {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.persist(path).map_err(|error| error.error)
    });
    let failed = |error| Failure::new(format!("{} cannot be written: {error}", path.display()));
    written.map(drop).map_err(failed)
}

/// Runs one of the commands about them.
pub(super) fn run(
    command: &ContextCommand,
    environment: &Environment,
    output: &mut Output,
) -> Result<u8, Failure> {
    match command {
        ContextCommand::Get(args) => list(args, environment, output),
        ContextCommand::Current => current(environment, output),
        ContextCommand::Use { name } => switch(name, environment, output),
        ContextCommand::Set(args) => set(args, environment, output),
    }
}

fn list(args: &ContextsArgs, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let (_, all) = read(environment)?;
    if let Some(form) = args.shape.output.machine() {
        output.document(form, &all)?;
        return Ok(OK);
    }
    let rows: Vec<Vec<(Tone, String)>> = all
        .contexts
        .iter()
        .map(|context| {
            let mark = if all.current_context.as_ref() == Some(&context.name) { "*" } else { "" };
            vec![
                (Tone::Good, mark.to_owned()),
                (Tone::Bold, context.name.clone()),
                (Tone::Plain, context.api.clone()),
                (Tone::Quiet, context.command.join(" ")),
            ]
        })
        .collect();
    output.table(&["CURRENT", "NAME", "API", "COMMAND"], &rows)?;
    Ok(OK)
}

fn current(environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let (_, all) = read(environment)?;
    let name = all.current_context.ok_or_else(|| {
        Failure::new("no context is set")
            .hint("the configuration's socket is asked; `interlock config use-context NAME`")
    })?;
    output.line(name)?;
    Ok(OK)
}

fn switch(name: &str, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let reach = Reach { config: None, api: None, context: Some(name) };
    named(&reach, environment)?;
    let (path, mut all) = read(environment)?;
    all.current_context = Some(name.to_owned());
    write(&path, &all)?;
    output.line(format!("from now on `{name}` is asked"))?;
    Ok(OK)
}

fn set(args: &SetContextArgs, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if args.name.is_empty() || !args.name.chars().all(good) {
        return Err(Failure::new(format!("`{}` is no name", args.name.escape_debug()))
            .hint("letters, digits, `-`, `.` and `_` make one"));
    }
    let context = Context { name: args.name.clone(), api: args.api.clone(), command: args.command.clone() };
    way(&context)?;
    let (path, mut all) = read(environment)?;
    match all.contexts.iter_mut().find(|known| known.name == context.name) {
        Some(known) => *known = context,
        None => all.contexts.push(context),
    }
    write(&path, &all)?;
    output.line(format!("context `{}` is set", args.name))?;
    Ok(OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(api: &str, command: &[&str]) -> Option<Vec<String>> {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let context = Context { name: "x".to_owned(), api: api.to_owned(), command };
        match way(&context) {
            Ok(Way::Command(words)) => Some(words),
            Ok(Way::Socket(path)) => Some(vec![path.display().to_string()]),
            Err(_) => None,
        }
    }

    #[test]
    fn an_address_becomes_a_command_that_no_host_can_add_to() {
        assert_eq!(words("unix:///a/b.sock", &[]).unwrap(), ["/a/b.sock"]);
        assert_eq!(
            words("ssh://ops@edge-1:2222", &[]).unwrap(),
            ["ssh", "-T", "-p", "2222", "--", "ops@edge-1", "interlock", "dial-stdio"]
        );
        assert_eq!(
            words("ssh://edge", &["docker", "exec", "-i", "il", "interlock"]).unwrap()[3..],
            ["edge", "docker", "exec", "-i", "il", "interlock", "dial-stdio"]
        );
        for bad in ["ssh://", "ssh://-oProxyCommand=x", "ssh://a b", "ssh://a;b", "tcp://a", "unix://a", "a"]
        {
            assert_eq!(words(bad, &[]), None, "{bad}");
        }
    }
}
