//! `config`: get, set, unset, explain.

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::{Shared, failure::Failure, output::Out, topic::key_value};
use crate::{
    client::{ConfigChange, ConfigEntry, Resource},
    config::{Definition, Scope, definition, definitions, nearest},
};

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Show settings: those that somebody set, the named ones, or all
    Get {
        #[command(flatten)]
        of: Of,
        /// Which; those that somebody set where not given
        keys: Vec<String>,
        /// Show those that nobody set as well
        #[arg(long)]
        all: bool,
    },
    /// Change settings
    Set {
        #[command(flatten)]
        of: Of,
        /// What to change
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = key_value)]
        settings: Vec<(String, String)>,
        /// Add the values to lists instead of replacing them
        #[arg(long, conflicts_with = "subtract")]
        append: bool,
        /// Take the values from lists
        #[arg(long)]
        subtract: bool,
        /// Only check whether it could be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Take settings back to what counts without them
    Unset {
        #[command(flatten)]
        of: Of,
        /// Which
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Say what a key means, what it accepts, its default and, with a resource, its value there
    Explain {
        #[command(flatten)]
        of: MaybeOf,
        /// Which; all where not given
        key: Option<String>,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Of {
    /// Of a topic
    #[arg(long)]
    topic: Option<String>,
    /// Of one broker, by its id
    #[arg(long, value_name = "ID")]
    broker: Option<i32>,
    /// Of all brokers
    #[arg(long)]
    brokers: bool,
    /// Of a consumer group
    #[arg(long)]
    group: Option<String>,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub(super) struct MaybeOf {
    /// Show the value of a topic
    #[arg(long)]
    topic: Option<String>,
    /// Show the value of a broker
    #[arg(long, value_name = "ID")]
    broker: Option<i32>,
    /// The kind of key, where a name is used for several
    #[arg(long, value_enum)]
    scope: Option<Kind>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Kind {
    Topic,
    Broker,
    Group,
    ClientMetrics,
}

impl Of {
    fn resource(self) -> Resource {
        match self {
            Self { topic: Some(topic), .. } => Resource::Topic(topic),
            Self { broker: Some(node), .. } => Resource::Broker(node),
            Self { group: Some(group), .. } => Resource::Group(group),
            _ => Resource::BrokerDefaults,
        }
    }
}

pub(super) async fn run(command: Config, shared: &Shared, out: &mut Out) -> Result<(), Failure> {
    match command {
        Config::Get { of, keys, all } => {
            let resource = of.resource();
            let names = (!keys.is_empty()).then_some(keys.as_slice());
            let entries = shared.client()?.describe_configs(&resource, names, false).await?;
            let shown = |entry: &ConfigEntry| all || names.is_some() || entry.source.is_set();
            let shown: Vec<_> = entries.into_iter().filter(shown).map(Row::from).collect();
            out.rows(&shown, &["key", "value", "source", "read-only"], Row::cells)
        }
        Config::Set { of, settings, append, subtract, dry_run } => {
            let change = match (append, subtract) {
                (true, _) => ConfigChange::Append,
                (_, true) => ConfigChange::Subtract,
                _ => ConfigChange::Set,
            };
            let changes: Vec<_> = settings.into_iter().map(|(key, v)| change(key, v)).collect();
            shared.client()?.alter_configs(&of.resource(), &changes, dry_run).await?;
            out.note(if dry_run { "valid" } else { "set" })
        }
        Config::Unset { of, keys } => {
            let changes: Vec<_> = keys.into_iter().map(ConfigChange::Unset).collect();
            shared.client()?.alter_configs(&of.resource(), &changes, false).await?;
            out.note("unset")
        }
        Config::Explain { of, key } => explain(of, key, shared, out).await,
    }
}

#[derive(Serialize)]
struct Row {
    key: String,
    value: Option<String>,
    source: &'static str,
    read_only: bool,
    sensitive: bool,
}

impl From<ConfigEntry> for Row {
    fn from(entry: ConfigEntry) -> Self {
        Self {
            key: entry.name,
            value: entry.value,
            source: entry.source.name(),
            read_only: entry.read_only,
            sensitive: entry.sensitive,
        }
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let hidden = if self.sensitive { "(hidden)" } else { "-" };
        vec![
            self.key.clone(),
            self.value.clone().unwrap_or_else(|| hidden.to_owned()),
            self.source.to_owned(),
            if self.read_only { "yes" } else { "no" }.to_owned(),
        ]
    }
}

#[derive(Serialize)]
struct Explained {
    key: &'static str,
    scope: &'static str,
    #[serde(rename = "type")]
    value_type: String,
    default: Option<&'static str>,
    accepts: Option<String>,
    changes: &'static str,
    documentation: &'static str,
    differs_from_kafka: Option<&'static str>,
    value: Option<String>,
    source: Option<&'static str>,
}

const SCOPES: [(Scope, &str); 4] = [
    (Scope::Topic, "topic"),
    (Scope::Broker, "broker"),
    (Scope::Group, "group"),
    (Scope::ClientMetrics, "client-metrics"),
];

fn explained(definition: &'static Definition, scope: Scope, name: &'static str) -> Explained {
    Explained {
        key: definition.name,
        scope: name,
        value_type: definition.value_type.to_string(),
        default: definition.default,
        accepts: definition.validator.describe(),
        changes: match (scope, definition.is_read_only()) {
            (Scope::Broker, true) => "in the file only",
            _ => "while the node runs",
        },
        documentation: definition.documentation,
        differs_from_kafka: definition.deviation,
        value: None,
        source: None,
    }
}

async fn explain(
    of: MaybeOf,
    key: Option<String>,
    shared: &Shared,
    out: &mut Out,
) -> Result<(), Failure> {
    let wanted = match (&of.topic, &of.broker, of.scope) {
        (Some(_), ..) | (.., Some(Kind::Topic)) => Some("topic"),
        (_, Some(_), _) | (.., Some(Kind::Broker)) => Some("broker"),
        (.., Some(Kind::Group)) => Some("group"),
        (.., Some(Kind::ClientMetrics)) => Some("client-metrics"),
        (None, None, None) => None,
    };
    let scopes = SCOPES.into_iter().filter(|(_, name)| wanted.is_none_or(|wanted| wanted == *name));
    let Some(key) = key else {
        let all: Vec<_> = scopes
            .flat_map(|(scope, name)| {
                let listed = definitions(scope).filter(|definition| !definition.internal);
                listed.map(move |definition| explained(definition, scope, name))
            })
            .collect();
        return out.rows(&all, &["key", "scope", "type", "default", "meaning"], |row| {
            vec![
                row.key.to_owned(),
                row.scope.to_owned(),
                row.value_type.clone(),
                row.default.unwrap_or("-").to_owned(),
                row.documentation.to_owned(),
            ]
        });
    };
    let mut found: Vec<_> = scopes
        .clone()
        .filter_map(|(scope, name)| Some(explained(definition(scope, &key)?, scope, name)))
        .collect();
    if found.is_empty() {
        let near = scopes.filter_map(|(scope, _)| nearest(scope, &key)).next();
        let near = near.map_or_else(String::new, |near| format!("; did you mean '{near}'?"));
        return Err(Failure::usage(format!("there is no key '{key}'{near}")));
    }
    let resource = match (of.topic, of.broker) {
        (Some(topic), _) => Some(Resource::Topic(topic)),
        (_, Some(node)) => Some(Resource::Broker(node)),
        _ => None,
    };
    if let Some(resource) = resource {
        let names = [key];
        let entries = shared.client()?.describe_configs(&resource, Some(&names), false).await?;
        if let (Some(entry), Some(row)) = (entries.into_iter().next(), found.first_mut()) {
            row.source = Some(entry.source.name());
            row.value = entry.value;
        }
    }
    if out.is_json() { out.json(&found) } else { show(&found, out) }
}

fn show(found: &[Explained], out: &mut Out) -> Result<(), Failure> {
    for row in found {
        out.note(&format!("{} ({})", row.key, row.scope))?;
        out.note(&format!("  {}", row.documentation))?;
        out.note(&format!("  type:     {}", row.value_type))?;
        out.note(&format!("  default:  {}", row.default.unwrap_or("(none)")))?;
        if let Some(accepts) = &row.accepts {
            out.note(&format!("  accepts:  {accepts}"))?;
        }
        out.note(&format!("  changes:  {}", row.changes))?;
        if let Some(differs) = row.differs_from_kafka {
            out.note(&format!("  differs from Kafka: {differs}"))?;
        }
        if let Some(source) = row.source {
            let value = row.value.as_deref().unwrap_or("(none)");
            out.note(&format!("  value:    {value} (from: {source})"))?;
        }
    }
    Ok(())
}
