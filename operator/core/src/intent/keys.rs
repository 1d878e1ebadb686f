//! Every key that a label or `INTERLOCK_DATA` may carry: the one table that parsing, "did you mean",
//! the reference in `docs/labels.md` and the coverage test read.

use interlock_crds::ProxyKind;

/// Where a key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dialect {
    /// A label `interlock.<key>`.
    Label,
    /// A key of the JSON object in the environment variable `INTERLOCK_DATA`.
    Data,
}

/// What a key decides, whatever the dialect calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setting {
    /// Full names, the primary one first.
    Host,
    /// The part of the name before the domain.
    Hostname,
    /// The part of the name after the host name.
    Domain,
    /// Further names.
    Alias,
    /// The path prefix.
    Path,
    /// Whether the prefix is stripped.
    Rewrite,
    /// The container's port.
    Port,
    /// The network to reach the container by.
    Network,
    /// Plain HTTP is redirected.
    HttpsOnly,
    /// TLS is wanted.
    Tls,
    /// The certificate's file name.
    Certificate,
    /// The key's file name.
    CertificateKey,
    /// TLS to the container.
    UpstreamTls,
    /// Whether the container's certificate is verified.
    UpstreamVerify,
    /// Paths with long-lived connections.
    Websocket,
    /// How requests are spread.
    Balance,
    /// Requests of one client go to one container.
    IpHash,
    /// The health check.
    Check,
    /// The time between two health checks.
    CheckInterval,
    /// HAProxy options.
    Options,
    /// How long a container that has just become ready gets less than its share.
    SlowStart,
    /// An HTTP answer is waited for before the first request.
    Warm,
    /// What admits the container.
    Readiness,
    /// Networks that are let in.
    Allow,
    /// Networks that are not.
    Deny,
    /// The largest request body.
    BodySize,
    /// Who stands behind the container.
    Owner,
}

impl Setting {
    /// Whether it speaks for a whole container, named routes included.
    pub fn of_container(self) -> bool {
        KEYS.iter().any(|key| key.setting == self && key.container)
    }
}

/// What a key's value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `true`, `false`, `1`, `0`, `yes`, `no` in any case; a label's empty value means true.
    Bool,
    /// A whole number.
    Number,
    /// One text.
    Text,
    /// Several: labels take a suffix for each (`.0`, `.1`, `.www`), JSON an array.
    List,
}

impl Kind {
    /// The words for the reference.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Bool => "boolean",
            Self::Number => "number",
            Self::Text => "text",
            Self::List => "list",
        }
    }
}

/// What a key costs a running HAProxy as long as it has spare backends. nginx reloads for whatever alters its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Nothing: it is changed in the running proxy, or only the agent minds it.
    Live,
    /// A reload for the first of its kind, without losing a request; as [`Effect::Live`] for those that follow.
    First,
    /// A reload, without losing a request.
    Reload,
}

impl Effect {
    /// The word for the reference.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::First => "live, the first of its kind a reload",
            Self::Reload => "reload",
        }
    }
}

/// One key of one dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Where it is written.
    pub dialect: Dialect,
    /// The key, without `interlock.`.
    pub name: &'static str,
    /// What it decides.
    pub setting: Setting,
    /// What its value looks like.
    pub kind: Kind,
    /// Whether it speaks for the whole container: then it needs no host beside it, and named routes
    /// take it over where they have none of their own.
    pub container: bool,
    /// The proxies that honour it; on another one a finding says so.
    pub proxies: &'static [ProxyKind],
    /// What it costs.
    pub effect: Effect,
    /// One sentence for the reference, without a full stop.
    pub summary: &'static str,
}

const BOTH: &[ProxyKind] = &[ProxyKind::Haproxy, ProxyKind::Nginx];

/// Text before every label that Interlock reads.
pub const PREFIX: &str = "interlock.";

impl Key {
    const fn label(name: &'static str, setting: Setting, kind: Kind, summary: &'static str) -> Self {
        Self {
            dialect: Dialect::Label,
            name,
            setting,
            kind,
            container: false,
            proxies: BOTH,
            effect: Effect::Live,
            summary,
        }
    }

    const fn data(name: &'static str, setting: Setting, kind: Kind, summary: &'static str) -> Self {
        let mut key = Self::label(name, setting, kind, summary);
        key.dialect = Dialect::Data;
        key
    }

    /// It is part of what HAProxy cannot change while it runs.
    const fn shape(mut self) -> Self {
        self.effect = Effect::First;
        self
    }

    /// It is part of what HAProxy cannot change while it runs, and nothing is declared ahead for it.
    const fn reload(mut self) -> Self {
        self.effect = Effect::Reload;
        self
    }

    const fn of_container(mut self) -> Self {
        self.container = true;
        self
    }

    const fn only(mut self, proxies: &'static [ProxyKind]) -> Self {
        self.proxies = proxies;
        self
    }

    /// The key as people write it: `interlock.port`, or `INTERLOCK_DATA.port` for the JSON key.
    pub fn full_name(&self) -> String {
        match self.dialect {
            Dialect::Label => format!("{PREFIX}{}", self.name),
            Dialect::Data => format!("{DATA}.{}", self.name),
        }
    }

    /// Whether it may stand under a route's name, as in `interlock.web.port`.
    pub fn can_be_named(&self) -> bool {
        self.dialect == Dialect::Label && self.setting != Setting::Owner
    }
}

/// The environment variable of the first dialect.
pub const DATA: &str = "INTERLOCK_DATA";

/// First segments of labels that are Interlock's and say nothing about a route.
pub const RESERVED: &[&str] = &["agent", "app", "ext"];

/// Labels below this one say nothing by themselves; documents may select containers by them.
pub const SELECT: &str = "select.";

const HAPROXY: &[ProxyKind] = &[ProxyKind::Haproxy];

/// Every key. Within a dialect, of two keys for one setting the first is the stronger.
#[rustfmt::skip] // one line each
pub const KEYS: &[Key] = {
    use Kind::{Bool, List, Number, Text};
    use Setting as S;
    &[
        Key::label("host", S::Host, Text, "Full names, comma-separated, the first one primary; `*.example.com` is a wildcard"),
        Key::label("hostname", S::Hostname, Text, "A name before `interlock.domain`, or a full name when there is no domain"),
        Key::label("domain", S::Domain, Text, "The domain after `interlock.hostname`; alone it is the name"),
        Key::label("alias_domain", S::Alias, List, "Further full names, each with every setting of the first"),
        Key::label("path", S::Path, Text, "Only requests below this path, on segment boundaries; the longest path wins"),
        Key::label("context_root", S::Path, Text, "The older name of `interlock.path`"),
        Key::label("rewrite", S::Rewrite, Bool, "Strips the path before the container sees the request"),
        Key::label("context_root_rewrite", S::Rewrite, Bool, "The older name of `interlock.rewrite`"),
        Key::label("port", S::Port, Number, "The container's own port; default: the only TCP port that it exposes"),
        Key::label("network", S::Network, Text, "The network to reach the container by; the proxy is attached to it").of_container(),
        Key::label("ssl", S::Tls, Bool, "Serves HTTPS too; without `interlock.ssl_cert` by the default certificate"),
        Key::label("ssl_only", S::HttpsOnly, Bool, "Redirects plain HTTP to HTTPS"),
        Key::label("ssl_cert", S::Certificate, Text, "The certificate: a file name in the cluster's certificate folder"),
        Key::label("ssl_cert_key", S::CertificateKey, Text, "The key's file name there, if it is not in the certificate's file"),
        Key::label("ssl_backend", S::UpstreamTls, Bool, "Speaks TLS to the container"),
        Key::label("ssl_backend_tls_verify", S::UpstreamVerify, Text, "Whether the container's certificate is verified: `required` or `none`, the default").shape(),
        Key::label("websocket_endpoint", S::Websocket, List, "Paths whose connections may idle as long as a tunnel"),
        Key::label("balance_algorithm", S::Balance, Text, "`roundrobin` (default), `leastconn`, `source`, `random`, `uri`, `first`").shape(),
        Key::label("ip_hash", S::IpHash, Bool, "Sends one client's requests to one container, consistently"),
        Key::label("health_check", S::Check, Text, "The health check: `httpchk GET /ping`, `/ping` or `tcp-check`"),
        Key::label("health_check_interval", S::CheckInterval, Number, "Milliseconds between two health checks"),
        Key::label("backend_option", S::Options, List, "HAProxy `option` lines, from an allowlist").only(HAPROXY).shape(),
        Key::label("slow_start", S::SlowStart, Text, "How long a container beside others gets less than its share after it has become ready, as `30s`").only(HAPROXY).shape(),
        Key::label("warm", S::Warm, Bool, "Waits for an HTTP answer before the first request"),
        Key::label("readiness", S::Readiness, Text, "What admits the container: `auto`, `docker`, `probe` or `none`").of_container(),
        Key::label("allow", S::Allow, List, "Networks that are let in, comma-separated, as `10.0.0.0/8`; default: all").reload(),
        Key::label("deny", S::Deny, List, "Networks that are not let in, whatever `interlock.allow` says").reload(),
        Key::label("limits.bodysize", S::BodySize, Number, "The largest request body in bytes; default: any size").reload(),
        Key::label("owner", S::Owner, Text, "Who stands behind a container that neither compose nor Swarm manages").of_container(),
        Key::data("hostname", S::Hostname, Text, "A name before `domain`, or a full name when there is no domain"),
        Key::data("domain", S::Domain, Text, "The domain after `hostname`; alone it is the name"),
        Key::data("alias_domains", S::Alias, List, "Further full names, each with every setting of the first"),
        Key::data("port", S::Port, Number, "The container's own port; default: the only TCP port that it exposes"),
        Key::data("warm", S::Warm, Bool, "Waits for an HTTP answer before the first request"),
        Key::data("check", S::Check, Text, "The health check: `httpchk GET /ping`, `/ping` or `tcp-check`"),
        Key::data("check_interval", S::CheckInterval, Number, "Milliseconds between two health checks"),
        Key::data("backend_options", S::Options, List, "HAProxy `option` lines, from an allowlist").only(HAPROXY).shape(),
        Key::data("ssl_only", S::HttpsOnly, Bool, "Redirects plain HTTP to HTTPS"),
        Key::data("balance_algorithm", S::Balance, Text, "`roundrobin` (default), `leastconn`, `source`, `random`, `uri`, `first`").shape(),
        Key::data("ssl_backend", S::UpstreamTls, Bool, "Speaks TLS to the container"),
        Key::data("ssl_backend_tls_verify", S::UpstreamVerify, Text, "Whether the container's certificate is verified: `required` or `none`, the default").shape(),
        Key::data("ssl", S::Tls, Bool, "Serves HTTPS too; without `ssl_certificate` by the default certificate"),
        Key::data("ssl_certificate", S::Certificate, Text, "The certificate: a file name in the cluster's certificate folder"),
        Key::data("ssl_certificate_key", S::CertificateKey, Text, "The key's file name there, if it is not in the certificate's file"),
        Key::data("websocket_endpoints", S::Websocket, List, "Paths whose connections may idle as long as a tunnel"),
    ]
};

/// The keys of one dialect.
pub fn of(dialect: Dialect) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.dialect == dialect)
}

/// The key of a label's text after `interlock.` or `interlock.<name>.`. A list's key may carry any
/// suffix, as Interlock 1 took every label that contained the key.
pub fn label_key(text: &str) -> Option<&'static Key> {
    of(Dialect::Label)
        .find(|key| key.name == text)
        .or_else(|| of(Dialect::Label).find(|key| key.kind == Kind::List && text.starts_with(key.name)))
}

/// The key of a JSON key; any case, as older Interlocks took it.
pub fn data_key(text: &str) -> Option<&'static Key> {
    of(Dialect::Data).find(|key| key.name.eq_ignore_ascii_case(text))
}

/// The longest text, in bytes, that is compared with what could have been meant.
pub(super) const LONGEST_SLIP: usize = 64;

/// The key of `dialect` that a key nobody knows was probably meant to be.
pub fn nearest(dialect: Dialect, text: &str) -> Option<&'static Key> {
    const NEAR: f64 = 0.85;
    // Nobody misspells a key by that much, and comparing takes time in the square of the length.
    if text.len() > LONGEST_SLIP {
        return None;
    }
    let text = text.to_ascii_lowercase().replace('-', "_");
    // A key of the other dialect: what decides the same here.
    if let Some(other) = KEYS.iter().find(|key| key.dialect != dialect && key.name == text)
        && let Some(same) = of(dialect).find(|key| key.setting == other.setting)
    {
        return Some(same);
    }
    let mut best: Option<(f64, &'static Key)> = None;
    for key in of(dialect) {
        let score = strsim::jaro_winkler(key.name, &text);
        if score > NEAR && best.is_none_or(|(most, _)| score > most) {
            best = Some((score, key));
        }
    }
    best.map(|(_, key)| key)
}
