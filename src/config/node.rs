//! The node's file: TOML with Kafka's names, checked as a whole before anything starts.
//!
//! A name may be written quoted (`"log.retention.ms" = 1`), dotted (`log.retention.ms = 1`) or as a
//! table (`[log.retention]` and `ms = 1`): tables are flattened to dotted names. The few keys whose
//! name continues another's, such as `max.connections` and `max.connections.per.ip`, need quotes
//! when both are set, since TOML cannot hold a value and a table under one name.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::alter::{AlterError, check_lags};
use super::broker::BrokerConfig;
use super::definition::Scope;
use super::keys::{definition, nearest};
use super::layers::{BrokerLayers, Layer, TopicLayers};
use super::listener::{Listener, ListenerError, parse_listeners, split_address};
use super::topic::TopicConfig;
use super::value::{InvalidReason, Value};
use crate::base::NodeId;

/// What a node must know before it starts: who it is, where it listens, where its data lie.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    /// `node.id`.
    pub node_id: NodeId,
    /// `log.dirs`, or `log.dir`: one or more directories for data.
    pub data_dirs: Vec<PathBuf>,
    /// `listeners`: where clients connect.
    pub listeners: Vec<Listener>,
    /// `advertised.listeners`: what clients are told. A port of 0 stands for the one that was
    /// bound.
    pub advertised_listeners: Vec<Listener>,
    /// `ottla.cluster.listener`: where other nodes connect.
    pub cluster_listener: Address,
    /// `ottla.cluster.advertised.listener`: what other nodes are told.
    pub cluster_advertised_listener: Address,
    /// `ottla.cluster.tls.*`: what this node shows to others, and whom it trusts.
    pub cluster_tls: Option<ClusterTls>,
    /// `ottla.cluster.keep.alive.ms`.
    pub cluster_keep_alive: Duration,
    /// `ottla.cluster.idle.timeout.ms`.
    pub cluster_idle_timeout: Duration,
    /// `ottla.cluster.suspicion.timeout.ms`; zero for never.
    pub cluster_suspicion_timeout: Duration,
    /// `ottla.http.listener`: health and metrics; `None` for not at all.
    pub http_listener: Option<Address>,
    /// `ottla.seeds`: nodes to join.
    pub seeds: Vec<Address>,
    /// `ottla.quorum.voters.target`; 0 for none.
    pub voters_target: usize,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// `ottla.log.level`: directives for the node's own log.
    pub log_level: String,
    /// `ottla.log.format`.
    pub log_format: LogFormat,
    /// Everything that the file sets, as the static layer of [`BrokerLayers`].
    pub settings: BTreeMap<String, String>,
    /// What is worth telling whoever wrote the file, though it does not stop the start.
    pub warnings: Vec<Warning>,
}

/// A host and a port. The host is empty for every address of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// The port; 0 for any that is free.
    pub port: u16,
}

/// The files of the cluster plane's TLS, all three in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterTls {
    /// The certificates that are trusted.
    pub ca: PathBuf,
    /// This node's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The form of the node's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// A key of the file that does nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {name} is accepted for compatibility, but Ottla does not use it")]
pub struct Warning {
    /// The key.
    pub name: String,
    /// Where it stands.
    pub line: usize,
}

/// Why a node's file is refused.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("cannot read {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML.
    #[error("not valid TOML{}:\n{source}", hint(.source))]
    Malformed {
        /// Where and why.
        source: toml::de::Error,
    },
    /// Keys in it are wrong; all of them are listed.
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
}

/// A key that is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{}{name}: {reason}", .line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub struct Problem {
    /// The key.
    pub name: String,
    /// Where it stands; `None` for one that is not in the file.
    pub line: Option<usize>,
    /// What is wrong with it.
    pub reason: ProblemReason,
}

/// What is wrong with a key.
#[derive(Debug, thiserror::Error)]
pub enum ProblemReason {
    /// There is no such key.
    #[error("unknown key{}", .nearest.map(|one| format!("; did you mean {one}?")).unwrap_or_default())]
    Unknown {
        /// A name that may have been meant.
        nearest: Option<&'static str>,
    },
    /// It is a topic's key.
    #[error("is a key of topics{}", .broker_key.map(|one| format!("; for all topics set {one}")).unwrap_or_default())]
    TopicKey {
        /// The broker's key for the same.
        broker_key: Option<&'static str>,
    },
    /// The value is not one of the key's.
    #[error("{0}")]
    Invalid(#[from] InvalidReason),
    /// TOML has types that no key has.
    #[error("must be a text, a number, true or false, or a list of texts")]
    WrongKind,
    /// The same key in two spellings.
    #[error("is set twice")]
    Twice,
    /// It must be set.
    #[error("must be set")]
    Missing,
    /// A listener is malformed.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// An address is malformed.
    #[error("must be of the form HOST:PORT")]
    Address,
    /// Another key asks for it.
    #[error("must be set, as {0} is")]
    MissingBeside(&'static str),
    /// Two keys contradict each other.
    #[error(transparent)]
    Conflict(#[from] AlterError),
    /// Too small beside another key.
    #[error("must be at least {other} ({least})")]
    BelowOther {
        /// The other key.
        other: &'static str,
        /// Its value.
        least: i64,
    },
    /// A time that is neither positive nor -1.
    #[error("must be at least 1, or -1 for no limit")]
    NoTime,
}

fn hint(source: &toml::de::Error) -> &'static str {
    let message = source.message();
    match message.contains("duplicate key") || message.contains("dotted key") {
        true => " (quote a key whose name continues another's: \"max.connections.per.ip\" = 100)",
        false => "",
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// A value of the file as text, with its place.
struct Setting {
    name: String,
    text: Option<String>,
    span: Range<usize>,
}

impl NodeConfig {
    /// The keys that become fields of this struct.
    pub const KEYS: &'static [&'static str] = &[
        "advertised.listeners",
        "broker.id",
        "broker.rack",
        "listener.security.protocol.map",
        "listeners",
        "log.dir",
        "log.dirs",
        "node.id",
        "ottla.cluster.advertised.listener",
        "ottla.cluster.idle.timeout.ms",
        "ottla.cluster.suspicion.timeout.ms",
        "ottla.cluster.keep.alive.ms",
        "ottla.cluster.listener",
        "ottla.cluster.tls.ca",
        "ottla.cluster.tls.cert",
        "ottla.cluster.tls.key",
        "ottla.http.listener",
        "ottla.log.format",
        "ottla.log.level",
        "ottla.quorum.voters.target",
        "ottla.seeds",
    ];

    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })?;
        Self::from_toml(&text)
    }

    /// Checks the text of a file.
    pub fn from_toml(text: &str) -> Result<Self, LoadError> {
        let table = DeTable::parse(text).map_err(|source| LoadError::Malformed { source })?;
        let mut found = Vec::new();
        flatten("", table.get_ref(), &mut found);
        found.sort_by_key(|one| one.span.start);
        let line = |span: &Range<usize>| 1 + text[..span.start].matches('\n').count();
        let mut settings = BTreeMap::new();
        let mut lines = BTreeMap::new();
        let mut problems = Vec::new();
        for one in found {
            let line = line(&one.span);
            match check_setting(&one) {
                Ok(_) if lines.contains_key(&one.name) => problems.push(Problem {
                    name: one.name,
                    line: Some(line),
                    reason: ProblemReason::Twice,
                }),
                Ok(text) => {
                    lines.insert(one.name.clone(), line);
                    settings.insert(one.name, text);
                }
                Err(reason) => problems.push(Problem { name: one.name, line: Some(line), reason }),
            }
        }
        Self::assemble(settings, &lines, problems)
    }

    /// Checks settings that did not come from a file, such as those of `ottla dev`.
    pub fn from_settings(settings: BTreeMap<String, String>) -> Result<Self, LoadError> {
        let mut problems = Vec::new();
        for (name, text) in &settings {
            let one = Setting { name: name.clone(), text: Some(text.clone()), span: 0..0 };
            if let Err(reason) = check_setting(&one) {
                problems.push(Problem { name: one.name, line: None, reason });
            }
        }
        Self::assemble(settings, &BTreeMap::new(), problems)
    }

    /// The layers of a broker with this file as their ground.
    pub fn layers<'a>(
        &'a self,
        broker: &'a dyn Layer,
        cluster_default: &'a dyn Layer,
    ) -> BrokerLayers<'a> {
        BrokerLayers { broker, cluster_default, file: &self.settings }
    }

    fn assemble(
        settings: BTreeMap<String, String>,
        lines: &BTreeMap<String, usize>,
        mut problems: Vec<Problem>,
    ) -> Result<Self, LoadError> {
        // With invalid values left out, the rest can still be checked, so that one start tells all.
        let reader = Reader { file: &settings, lines };
        let config = reader.read(&mut problems);
        reader.check_together(&mut problems);
        let warnings = lines
            .iter()
            .filter(|(name, _)| {
                definition(Scope::Broker, name).is_some_and(|key| !key.has_effect())
            })
            .map(|(name, line)| Warning { name: name.clone(), line: *line })
            .collect();
        problems.sort_by_key(|one| one.line);
        match config {
            Some(config) if problems.is_empty() => {
                let mut settings = settings;
                // Clients of Kafka's that read the id read either name.
                for name in ["node.id", "broker.id"] {
                    settings.insert(name.to_owned(), config.node_id.to_string());
                }
                Ok(Self { settings, warnings, ..config })
            }
            _ => Err(LoadError::Invalid(problems)),
        }
    }
}

/// Turns tables into dotted names and values into text.
fn flatten(prefix: &str, table: &DeTable<'_>, found: &mut Vec<Setting>) {
    for (key, value) in table {
        let name = match prefix {
            "" => key.get_ref().to_string(),
            prefix => format!("{prefix}.{}", key.get_ref()),
        };
        if let DeValue::Table(inner) = value.get_ref() {
            flatten(&name, inner, found);
            continue;
        }
        found.push(Setting { name, text: text_of(value), span: key.span() });
    }
}

/// The text of a value; `None` for a kind that no key has.
fn text_of(value: &Spanned<DeValue<'_>>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Some(number.to_string()),
            Err(_) => Some(number.to_string()),
        },
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        DeValue::Array(elements) => {
            let texts: Option<Vec<String>> = elements
                .iter()
                .map(|one| match one.get_ref() {
                    DeValue::Array(_) => None,
                    _ => text_of(one),
                })
                .collect();
            texts.map(|texts| texts.join(","))
        }
        DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

/// The text of a setting, if the key exists and takes it.
fn check_setting(one: &Setting) -> Result<String, ProblemReason> {
    let Some(key) = definition(Scope::Broker, &one.name) else {
        if definition(Scope::Topic, &one.name).is_some() {
            let broker_key = super::keys::broker_synonyms(&one.name).first().map(|one| one.0);
            return Err(ProblemReason::TopicKey { broker_key });
        }
        return Err(ProblemReason::Unknown { nearest: nearest(Scope::Broker, &one.name) });
    };
    let text = one.text.clone().ok_or(ProblemReason::WrongKind)?;
    key.parse(&text)?;
    Ok(text)
}

/// Reads the fields of [`NodeConfig`] from what the file sets.
struct Reader<'a> {
    file: &'a BTreeMap<String, String>,
    lines: &'a BTreeMap<String, usize>,
}

impl Reader<'_> {
    fn layers(&self) -> BrokerLayers<'_> {
        BrokerLayers { broker: &(), cluster_default: &(), file: self.file }
    }

    fn problem(&self, name: &str, reason: impl Into<ProblemReason>) -> Problem {
        let line = self.lines.get(name).copied();
        Problem { name: name.to_owned(), line, reason: reason.into() }
    }

    fn read(&self, problems: &mut Vec<Problem>) -> Option<NodeConfig> {
        let node_id = self.node_id(problems);
        let listeners = self.listeners().map_err(|one| problems.push(one)).ok();
        let cluster = self.address("ottla.cluster.listener", problems);
        let cluster_advertised = self.address("ottla.cluster.advertised.listener", problems);
        let cluster_tls = self.cluster_tls(problems);
        let http_listener = self.address("ottla.http.listener", problems);
        let (listeners, advertised_listeners) = listeners?;
        let cluster_listener = cluster?;
        Some(NodeConfig {
            node_id: node_id?,
            data_dirs: self.texts("log.dirs").into_iter().map(PathBuf::from).collect(),
            listeners,
            advertised_listeners,
            cluster_advertised_listener: match cluster_advertised {
                Some(address) => address,
                None => advertisable(cluster_listener.clone()),
            },
            cluster_listener,
            cluster_tls,
            cluster_keep_alive: self.millis("ottla.cluster.keep.alive.ms"),
            cluster_idle_timeout: self.millis("ottla.cluster.idle.timeout.ms"),
            cluster_suspicion_timeout: self.millis("ottla.cluster.suspicion.timeout.ms"),
            http_listener,
            // Those that are no addresses were refused by the key's validator.
            seeds: self.texts("ottla.seeds").iter().filter_map(|text| address(text)).collect(),
            voters_target: usize::try_from(self.number("ottla.quorum.voters.target")).unwrap_or(0),
            rack: self.text("broker.rack"),
            log_level: self.text("ottla.log.level").unwrap_or_default(),
            log_format: match self.text("ottla.log.format").as_deref() {
                Some("json") => LogFormat::Json,
                _ => LogFormat::Text,
            },
            settings: BTreeMap::new(),
            warnings: Vec::new(),
        })
    }

    fn node_id(&self, problems: &mut Vec<Problem>) -> Option<NodeId> {
        let number = self.layers().find("node.id").value.and_then(|value| value.as_integer());
        let id = number.and_then(|number| u32::try_from(number).ok()).map(NodeId);
        let was_refused = problems.iter().any(|one| one.name == "node.id");
        if id.is_none() && !was_refused {
            problems.push(self.problem("node.id", ProblemReason::Missing));
        }
        id
    }

    /// What is listened on, and what is advertised.
    fn listeners(&self) -> Result<(Vec<Listener>, Vec<Listener>), Problem> {
        let protocols = self.text("listener.security.protocol.map").unwrap_or_default();
        let parse = |key: &str| {
            parse_listeners(&self.texts(key), &protocols).map_err(|error| self.problem(key, error))
        };
        let listeners = parse("listeners")?;
        let mut advertised = parse("advertised.listeners")?;
        for one in &mut advertised {
            if listeners.iter().all(|listener| listener.name != one.name) {
                let name = one.name.clone();
                return Err(
                    self.problem("advertised.listeners", ListenerError::NotListening { name })
                );
            }
            if one.host.is_empty() {
                one.host = own_host_name();
            }
            if matches!(one.host.as_str(), "0.0.0.0" | "::") {
                let host = one.host.clone();
                let key = match self.file.contains_key("advertised.listeners") {
                    true => "advertised.listeners",
                    false => "listeners",
                };
                return Err(self.problem(key, ListenerError::NotAdvertisable { host }));
            }
        }
        Ok((listeners, advertised))
    }

    fn address(&self, key: &str, problems: &mut Vec<Problem>) -> Option<Address> {
        let text = self.text(key).filter(|text| !text.is_empty())?;
        let address = address(&text);
        if address.is_none() {
            problems.push(self.problem(key, ProblemReason::Address));
        }
        address
    }

    /// All of the three files, or none.
    fn cluster_tls(&self, problems: &mut Vec<Problem>) -> Option<ClusterTls> {
        const KEYS: [&str; 3] =
            ["ottla.cluster.tls.ca", "ottla.cluster.tls.cert", "ottla.cluster.tls.key"];
        let found = KEYS.map(|key| self.text(key).filter(|text| !text.is_empty()));
        let set = KEYS.iter().zip(&found).find(|(_, text)| text.is_some()).map(|(key, _)| *key);
        for (key, text) in KEYS.iter().zip(&found) {
            if let (Some(set), None) = (set, text) {
                problems.push(self.problem(key, ProblemReason::MissingBeside(set)));
            }
        }
        let [ca, certificate, key] = found.map(|text| text.map(PathBuf::from));
        Some(ClusterTls { ca: ca?, certificate: certificate?, key: key? })
    }

    fn millis(&self, key: &str) -> Duration {
        Duration::from_millis(u64::try_from(self.number(key)).unwrap_or(0))
    }

    fn text(&self, key: &str) -> Option<String> {
        self.layers().find(key).value.and_then(|value| value.as_text().map(str::to_owned))
    }

    fn texts(&self, key: &str) -> Vec<String> {
        self.layers().find(key).value.map(|value| value.as_list().to_vec()).unwrap_or_default()
    }

    fn number(&self, key: &str) -> i64 {
        let value = self.layers().find(key).value;
        value.as_ref().and_then(Value::as_integer).unwrap_or_default()
    }

    /// Checks keys against each other, as Kafka does at its start.
    fn check_together(&self, problems: &mut Vec<Problem>) {
        let layers = TopicLayers { topic: &(), broker: self.layers() };
        let topic = TopicConfig::resolve(layers);
        if let Err(conflict) = check_lags(&topic) {
            problems.push(self.problem("log.cleaner.min.compaction.lag.ms", conflict));
        }
        if topic.retention_ms == 0 || topic.retention_ms < -1 {
            let name = layers.find("retention.ms").name;
            problems.push(self.problem(name, ProblemReason::NoTime));
        }
        for (key, other) in [
            ("group.max.session.timeout.ms", "group.min.session.timeout.ms"),
            ("ottla.cluster.idle.timeout.ms", "ottla.cluster.keep.alive.ms"),
            ("replica.lag.time.max.ms", "replica.fetch.wait.max.ms"),
            ("replica.socket.timeout.ms", "replica.fetch.wait.max.ms"),
        ] {
            let least = self.number(other);
            if self.number(key) < least {
                problems.push(self.problem(key, ProblemReason::BelowOther { other, least }));
            }
        }
        let broker = BrokerConfig::resolve(self.layers());
        let least = i64::from(broker.socket_request_max_bytes);
        if (1..least).contains(&broker.queued_max_request_bytes) {
            let other = "socket.request.max.bytes";
            let reason = ProblemReason::BelowOther { other, least };
            problems.push(self.problem("queued.max.request.bytes", reason));
        }
    }
}

fn address(text: &str) -> Option<Address> {
    split_address(text).map(|(host, port)| Address { host, port })
}

/// What other nodes can connect to, where the address listened on is not for that.
fn advertisable(address: Address) -> Address {
    match address.host.as_str() {
        "" | "0.0.0.0" | "::" => Address { host: own_host_name(), ..address },
        _ => address,
    }
}

fn own_host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
