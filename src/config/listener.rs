//! Listener addresses, as Kafka writes them: `NAME://HOST:PORT`.

use std::fmt;

/// How a listener is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityProtocol {
    /// Not at all.
    Plaintext,
    /// TLS.
    Ssl,
    /// SASL over plain TCP.
    SaslPlaintext,
    /// SASL over TLS.
    SaslSsl,
}

impl SecurityProtocol {
    /// Kafka's number.
    #[must_use]
    pub const fn wire(self) -> i16 {
        match self {
            Self::Plaintext => 0,
            Self::Ssl => 1,
            Self::SaslPlaintext => 2,
            Self::SaslSsl => 3,
        }
    }

    /// The protocol of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "PLAINTEXT" => Some(Self::Plaintext),
            "SSL" => Some(Self::Ssl),
            "SASL_PLAINTEXT" => Some(Self::SaslPlaintext),
            "SASL_SSL" => Some(Self::SaslSsl),
            _ => None,
        }
    }
}

/// An address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The listener's name, such as `PLAINTEXT` or `INTERNAL`.
    pub name: String,
    /// Host name or address; empty for every address of the machine.
    pub host: String,
    /// TCP port; 0 for any that is free.
    pub port: u16,
    /// How it is secured.
    pub protocol: SecurityProtocol,
}

/// Why a text is no list of listeners.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenerError {
    /// Not of the form.
    #[error("{text:?} is not of the form NAME://HOST:PORT")]
    Malformed {
        /// The text.
        text: String,
    },
    /// A name without a protocol.
    #[error("listener {name} has no security protocol; add it to listener.security.protocol.map")]
    NoProtocol {
        /// The listener's name.
        name: String,
    },
    /// The map of protocols is malformed.
    #[error("{text:?} is not of the form NAME:PROTOCOL")]
    MalformedProtocol {
        /// The text.
        text: String,
    },
    /// Not for clients.
    #[error("{name} is what other nodes connect to; name the listener otherwise")]
    Reserved {
        /// The listener's name.
        name: String,
    },
    /// Two listeners of one name.
    #[error("listener {name} is there twice")]
    Duplicate {
        /// The listener's name.
        name: String,
    },
    /// Clients cannot connect to every address at once.
    #[error(
        "{host} cannot be advertised; set advertised.listeners to an address clients can reach"
    )]
    NotAdvertisable {
        /// The host.
        host: String,
    },
    /// Advertised, but not listened on.
    #[error("listener {name} is advertised but not in listeners")]
    NotListening {
        /// The listener's name.
        name: String,
    },
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "{}://[{}]:{}", self.name, self.host, self.port);
        }
        write!(f, "{}://{}:{}", self.name, self.host, self.port)
    }
}

/// Splits `HOST:PORT`, with an IPv6 address in brackets.
pub(super) fn split_address(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    Some((host.to_owned(), port.parse().ok()?))
}

/// The name under which a broker registers where other nodes reach it, beside its listeners for
/// clients. In capitals, as Kafka's clients insist.
pub const CLUSTER_LISTENER: &str = "OTTLA.CLUSTER";

/// Parses the values of `listeners` and `listener.security.protocol.map`.
pub(super) fn parse_listeners(
    listeners: &[String],
    protocols: &str,
) -> Result<Vec<Listener>, ListenerError> {
    let mut map = Vec::new();
    for pair in protocols.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let parsed = pair.split_once(':');
        let parsed = parsed
            .and_then(|(name, protocol)| Some((name, SecurityProtocol::from_name(protocol)?)));
        map.push(parsed.ok_or_else(|| ListenerError::MalformedProtocol { text: pair.to_owned() })?);
    }
    let mut parsed: Vec<Listener> = Vec::new();
    for text in listeners {
        let malformed = || ListenerError::Malformed { text: text.clone() };
        let (name, address) = text.split_once("://").ok_or_else(malformed)?;
        let (host, port) = split_address(address).ok_or_else(malformed)?;
        let name = name.to_ascii_uppercase();
        let Some((_, protocol)) = map.iter().find(|(one, _)| one.eq_ignore_ascii_case(&name))
        else {
            return Err(ListenerError::NoProtocol { name });
        };
        if name == CLUSTER_LISTENER {
            return Err(ListenerError::Reserved { name });
        }
        if parsed.iter().any(|one| one.name == name) {
            return Err(ListenerError::Duplicate { name });
        }
        parsed.push(Listener { name, host, port, protocol: *protocol });
    }
    Ok(parsed)
}
