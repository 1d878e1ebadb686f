//! Signals as Docker and people write them: numbers and names, with and without `SIG`.

/// Linux's signal names in order of number, from 1.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// What `docker stop` sends when the container names nothing.
pub(super) const TERM: u8 = 15;
/// What no process survives.
pub(super) const KILL: u8 = 9;

/// The number of a signal: `15`, `TERM`, `SIGTERM`, `sigrtmin+3`; none if it is no signal.
pub(super) fn number(text: &str) -> Option<u8> {
    if let Ok(number) = text.parse::<u8>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return u8::try_from(index + 1).ok();
    }
    // Docker counts real-time signals from 34 (glibc keeps two for itself) to 64.
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign)?.parse::<u8>().ok(),
    };
    let found = if let Some(rest) = name.strip_prefix("RTMIN") {
        34_u8.checked_add(offset(rest, '+')?)?
    } else {
        64_u8.checked_sub(offset(name.strip_prefix("RTMAX")?, '-')?)?
    };
    (34..=64).contains(&found).then_some(found)
}

/// The signal that stops a container whose configuration says `text`.
pub(super) fn stop(text: &str) -> u8 {
    number(text).unwrap_or(TERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_signal() {
        let cases = [
            ("15", Some(15)),
            ("SIGTERM", Some(15)),
            ("sigquit", Some(3)),
            ("USR1", Some(10)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-14", Some(50)),
            ("WINCH", Some(28)),
            ("0", None),
            ("65", None),
            ("RTMIN+40", None),
            ("NOPE", None),
        ];
        for (text, expected) in cases {
            assert_eq!(number(text), expected, "{text}");
        }
        assert_eq!(stop(""), TERM);
    }
}
