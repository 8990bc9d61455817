//! One network namespace per node, joined by the switch, which is a part of this process.
//!
//! Each node runs in a network namespace with one interface (TUN), whose other end is here. So
//! every packet, of TCP as of UDP, passes the switch. Nothing of the kernel but TUN and namespaces
//! is needed, no `netem` and no packet filter, and nothing can be left behind: the interfaces end
//! with this process, and a namespace with the process that holds it, which the kernel ends with
//! this one.
//!
//! The clients, which run in this process, reach the nodes over one more interface, in the
//! namespace of this process.

use std::{collections::BTreeMap, io, net::Ipv4Addr, process::Stdio, sync::Arc};

use tokio::process::{Child, Command};
use tokio_tun::Tun;

use super::{CLIENTS, NetworkError, Place, links::Links, switch::Switch};

/// As on most networks.
const MTU: i32 = 1_500;
/// How many networks there are to choose from.
const NETWORKS: u32 = 64 * 256;

/// The namespaces of a cluster's nodes, and what joins them.
pub(super) struct Namespaces {
    prefix: [u8; 3],
    /// The process that holds each node's namespace.
    holders: BTreeMap<u32, Child>,
    _switch: Switch,
}

impl Namespaces {
    pub(super) async fn new(
        count: u32,
        links: &Arc<Links>,
        seed: u64,
    ) -> Result<Self, NetworkError> {
        let mut prefix = [0; 3];
        let mut holders = BTreeMap::new();
        let mut ports = BTreeMap::new();
        for member in CLIENTS..=count {
            let tun = interface()?;
            if member == CLIENTS {
                prefix = prefix_of(tun.name());
            }
            let mut within = Vec::new();
            if member != CLIENTS {
                let holder = hold_namespace().await?;
                let id = holder.id().unwrap_or_default().to_string();
                run(&["ip", "link", "set", tun.name(), "netns", &id]).await?;
                within = entering(&id);
                holders.insert(member, holder);
            }
            let ip = |args: &[&str]| {
                within.iter().cloned().chain(args.iter().map(|arg| (*arg).to_owned())).collect()
            };
            let address = format!("{}/24", Self::address_in(prefix, member));
            let commands: [Vec<String>; 3] = [
                ip(&["ip", "address", "add", &address, "dev", tun.name()]),
                ip(&["ip", "link", "set", tun.name(), "up"]),
                ip(&["ip", "link", "set", "lo", "up"]),
            ];
            for command in commands {
                run(&command).await?;
            }
            ports.insert(Self::address_in(prefix, member), (member, Arc::new(tun)));
        }
        Ok(Self { prefix, holders, _switch: Switch::new(ports, links, seed) })
    }

    fn address_in(prefix: [u8; 3], member: u32) -> Ipv4Addr {
        let [a, b, c] = prefix;
        Ipv4Addr::new(a, b, c, 1 + member as u8)
    }

    pub(super) fn place(&self, node: u32) -> Place {
        let host = Self::address_in(self.prefix, node).into();
        Place { host, told: host, kafka: 9092, cluster: 9192, http: 9644 }
    }

    /// What runs a command where a node is.
    pub(super) fn entering(&self, node: u32) -> Vec<String> {
        let holder = self.holders.get(&node).and_then(Child::id);
        holder.map_or_else(Vec::new, |id| entering(&id.to_string()))
    }
}

/// The addresses of the network that clients reach over this interface. The kernel gives each a
/// number that no other in this namespace has, so networks side by side have addresses of their own.
fn prefix_of(interface: &str) -> [u8; 3] {
    let number = interface.trim_start_matches(|c: char| !c.is_ascii_digit()).parse::<u32>();
    let network = number.unwrap_or_default() % NETWORKS;
    [10, 192 + (network / 256) as u8, (network % 256) as u8]
}

fn interface() -> Result<Tun, NetworkError> {
    let made = Tun::builder().name("").mtu(MTU).close_on_exec().build()?;
    let missing = || tokio_tun::Error::from(io::Error::from(io::ErrorKind::NotFound)).into();
    made.into_iter().next().ok_or_else(missing)
}

/// A process that does nothing but be in a new namespace, and ends with this one.
async fn hold_namespace() -> Result<Child, NetworkError> {
    let command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"];
    let failed = |source| NetworkError::Run { command: command.join(" "), source };
    let holder = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    // It is in its namespace once it sleeps.
    let name = format!("/proc/{}/comm", holder.id().unwrap_or_default());
    loop {
        match tokio::fs::read_to_string(&name).await.map_err(failed)?.trim() {
            "sleep" => return Ok(holder),
            _ => tokio::time::sleep(crate::nodes::LOOK).await,
        }
    }
}

fn entering(holder: &str) -> Vec<String> {
    ["nsenter".to_owned(), format!("--net=/proc/{holder}/ns/net"), "--".to_owned()].into()
}

async fn run(command: &[impl AsRef<str>]) -> Result<(), NetworkError> {
    let words: Vec<&str> = command.iter().map(AsRef::as_ref).collect();
    let spoken = || words.join(" ");
    let run = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output().await;
    let output = run.map_err(|source| NetworkError::Run { command: spoken(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(NetworkError::Failed { command: spoken(), status: output.status, said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn networks_side_by_side_have_addresses_of_their_own() {
        let links = Arc::default();
        let one = Namespaces::new(1, &links, 1).await;
        let other = Namespaces::new(1, &links, 1).await;
        let (Ok(one), Ok(other)) = (one, other) else { return };
        assert_ne!(one.place(1).host, other.place(1).host);
    }
}
