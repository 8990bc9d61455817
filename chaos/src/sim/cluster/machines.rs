//! Simulated machines, as a scenario needs them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ottla::{
    base::NodeId,
    client::{Client, ConfigChange},
    log::{Dir as _, SimDir, SimFault, SimOperation},
    metadata::MetadataImage,
};
use rand::{RngExt as _, rngs::StdRng, seq::IndexedRandom as _};
use tokio::time::{Instant, sleep};

use super::{
    Command, World,
    course::{HOST, TOPIC},
    seat::{Life, Seat, host},
};
use crate::{
    check::{Anomaly, Kind},
    disk,
    drive::{Backend, Disks, Leads, Links, NO_ROOM, PATIENCE, VoterChange},
    network::CLIENTS,
    scenario::{Fault, Files},
};

/// How long a node may take to end in order.
const STOPS: Duration = Duration::from_secs(30);
/// Has a broker be emptied of replicas.
const DRAIN: &str = "ottla.broker.drain";
/// How often it is seen whether what was asked of the simulation is done.
const LOOK: Duration = Duration::from_millis(1);
/// The system's number of an I/O error.
const EIO: i32 = 5;

/// All machines, and what is wrong with them.
pub(super) struct Machines {
    pub(super) world: Arc<World>,
    /// The links to clients that are cut.
    cut: BTreeSet<(u32, u32)>,
    disks: Disks,
    /// On how many nodes a partition is.
    factor: i16,
    /// Whoever runs the cluster, once somebody does.
    operator: Option<Client>,
    /// What a power cut leaves where a scenario does not ask for torn writes.
    rng: StdRng,
}

impl Machines {
    pub(super) fn new(world: Arc<World>, factor: i16, rng: StdRng) -> Self {
        let (cut, disks) = (BTreeSet::new(), Disks::new());
        Self { world, cut, disks, factor, operator: None, rng }
    }

    /// What needs a client is done through this one from now on.
    pub(super) fn operates_through(&mut self, client: Client) {
        self.operator = Some(client);
    }

    fn seat(&self, node: u32) -> &Seat {
        self.world.seat(node)
    }

    /// The newest metadata that any node serves.
    pub(super) fn image(&self) -> Option<Arc<MetadataImage>> {
        let images = self.world.seats.iter().filter_map(|seat| seat.image());
        images.max_by_key(|image| image.applied_index())
    }

    /// Which partition has a replica out of sync.
    pub(super) fn out_of_sync(&self) -> Option<String> {
        let Some(image) = self.image() else { return Some("no node serves".to_owned()) };
        let names = [TOPIC, "__consumer_offsets"];
        names.iter().find_map(|name| {
            let topic = image.topic_by_name(name)?;
            topic.partitions.iter().find_map(|(index, partition)| {
                let all = partition.isr.len() == partition.replicas.len();
                (!all).then(|| format!("{name}-{index}: {partition:?}"))
            })
        })
    }
}

impl Backend for Machines {
    type Error = Anomaly;

    fn nodes(&self) -> u32 {
        self.world.seats.len() as u32
    }

    fn cannot(&self, fault: Fault) -> Option<String> {
        let why = match fault {
            Fault::Pause => "a simulated node cannot stand still without ending",
            Fault::Corrupt { files: Files::Metadata } => "the simulated store is no bytes",
            Fault::ExpireCertificate => "simulated nodes read their certificates once",
            Fault::Decommission if self.factor as usize >= self.world.seats.len() => {
                return Some(NO_ROOM.to_owned());
            }
            Fault::ChangeVersion => "a simulation has one version",
            _ => return None,
        };
        Some(format!("{}: {why}", fault.name()))
    }

    fn leads(&self) -> Leads {
        let leader = || {
            let image = self.image()?;
            image.topic_by_name(TOPIC)?.partitions.values().find_map(|it| Some(it.leader?.0))
        };
        let terms = self.world.seats.iter().filter_map(|it| Some((it.leads_quorum()?, it.node)));
        Leads { partition: leader(), controller: terms.max().map(|(_, node)| node) }
    }

    async fn is_in_sync(&self) -> bool {
        self.out_of_sync().is_none()
    }

    /// A node that ends by itself is an anomaly of its own, told at the end.
    fn are_alive(&mut self) -> Result<(), Anomaly> {
        Ok(())
    }

    fn is_running(&self, node: u32) -> bool {
        self.seat(node).life() == Life::Up
    }

    async fn is_member(&self, node: u32) -> bool {
        self.seat(node).is_member()
    }

    fn excuse(&mut self, node: u32, excused: bool) {
        self.seat(node).excuse(excused);
    }

    async fn start(&mut self, node: u32) -> Result<(), Anomaly> {
        // It may have ended by itself.
        self.kill(&[node]).await?;
        let lives = self.seat(node).lives();
        self.world.ask(Command::Start(node));
        // Not as long as it is off: it may have given up at once.
        while self.seat(node).lives() == lives {
            sleep(LOOK).await;
        }
        Ok(())
    }

    async fn stop(&mut self, nodes: &[u32]) -> Result<(), Anomaly> {
        nodes.iter().for_each(|node| self.seat(*node).ask_to_stop());
        let asked = Instant::now();
        for node in nodes {
            while self.seat(*node).life() == Life::Up {
                if asked.elapsed() > STOPS {
                    let says = format!("node {node} does not stop within {STOPS:?}");
                    return Err(Anomaly::of_cluster(Kind::NodeFailed, says));
                }
                sleep(LOOK).await;
            }
        }
        self.kill(nodes).await
    }

    async fn kill(&mut self, nodes: &[u32]) -> Result<(), Anomaly> {
        for node in nodes {
            self.world.ask(Command::Crash(*node));
        }
        while nodes.iter().any(|node| self.seat(*node).life() != Life::Off) {
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn pause(&mut self, _node: u32, _paused: bool) -> Result<(), Anomaly> {
        Ok(())
    }

    /// Sets the links between nodes, and cuts those to the clients. Other faults do not reach the
    /// clients' TCP, which would make good for them.
    fn set_links(&mut self, links: Links) {
        let of_clients = links.iter().filter(|((from, to), conditions)| {
            (*from == CLIENTS || *to == CLIENTS) && conditions.cut
        });
        let cut: BTreeSet<(u32, u32)> = of_clients.map(|(link, _)| *link).collect();
        let name = |end: u32| if end == CLIENTS { HOST.to_owned() } else { host(end) };
        for (from, to) in self.cut.difference(&cut) {
            turmoil::repair_oneway(name(*from), name(*to));
        }
        for (from, to) in cut.difference(&self.cut) {
            turmoil::partition_oneway(name(*from), name(*to));
        }
        self.cut = cut;
        self.world.links.set(links);
    }

    fn set_disks(&mut self, disks: Disks) {
        for ((node, number), conditions) in &disks {
            let before = self.disks.get(&(*node, *number)).copied().unwrap_or_default();
            if before == *conditions {
                continue;
            }
            let seat = self.seat(*node);
            let disks = seat.disks();
            set_disk(&disks.logs[*number as usize - 1], *conditions);
            if *number == 1 && conditions.fails_writes && !before.fails_writes {
                disks.store.fail_next_persist();
            }
            seat.slow_disk(*number, conditions.delay);
        }
        self.disks = disks;
    }

    /// What survives is by lot in either case, as on a disk.
    fn cut_power(&mut self, node: u32, torn: Option<&mut StdRng>) -> Result<(), Anomaly> {
        let disks = self.world.seat(node).disks();
        let rng = torn.unwrap_or(&mut self.rng);
        for dir in &disks.logs {
            dir.crash(rng.random());
        }
        disks.store.crash(rng.random_range(0..=disks.store.unsynced()));
        Ok(())
    }

    fn wipe(&mut self, node: u32) -> Result<(), Anomaly> {
        self.seat(node).wipe();
        Ok(())
    }

    fn flip_bit(
        &mut self,
        node: u32,
        _files: Files,
        rng: &mut StdRng,
    ) -> Result<Option<String>, Anomaly> {
        let disks = self.seat(node).disks();
        let mut segments = Vec::new();
        for dir in &disks.logs {
            segments.extend(segments_of(dir).into_iter().map(|(path, len)| (dir, path, len)));
        }
        let Some((dir, path, len_bytes)) = segments.choose(rng) else { return Ok(None) };
        let (at, bit) = (rng.random_range(0..*len_bytes), rng.random_range(0..8));
        dir.corrupt(path, at, 1 << bit);
        Ok(Some(format!("byte {at} of {path} of {len_bytes}")))
    }

    fn skew(&mut self, node: u32, by_ms: i64) -> Result<(), Anomaly> {
        self.seat(node).skew(by_ms);
        Ok(())
    }

    async fn renew_certificate(
        &mut self,
        _node: u32,
        _ends: Option<Duration>,
    ) -> Result<(), Anomaly> {
        Ok(())
    }

    async fn change_voter(
        &mut self,
        node: u32,
        change: VoterChange,
        within: Duration,
    ) -> Result<(), Anomaly> {
        let others = (1..=self.nodes()).filter(|it| *it != node && self.is_running(*it));
        let through = match change {
            VoterChange::Add => node,
            VoterChange::Remove => others.min().unwrap_or(node),
        };
        let changed = self.seat(through).change_voter(node, change, within).await;
        changed.map_err(|error| {
            let says = format!("node {through} refused to {change:?} voter {node}: {error}");
            Anomaly::of_cluster(Kind::Unavailable, says)
        })
    }

    async fn decommission(&mut self, node: u32, cancel: bool) -> Result<(), Anomaly> {
        let Some(client) = &self.operator else { return Ok(()) };
        let drain = match cancel {
            false => ConfigChange::Set(DRAIN.to_owned(), "true".to_owned()),
            true => ConfigChange::Unset(DRAIN.to_owned()),
        };
        let changed = client.alter_broker_anywhere(node as i32, &[drain]).await;
        changed.map_err(|error| {
            let says = format!("node {node} cannot be drained: {error}");
            Anomaly::of_cluster(Kind::Unavailable, says)
        })?;
        let asked = Instant::now();
        let holds = |image: Arc<MetadataImage>| image.partitions_of(NodeId(node)).next().is_some();
        while !cancel && self.image().is_none_or(holds) {
            if asked.elapsed() > PATIENCE {
                return Err(self.too_late("that a node is emptied"));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn change_version(&mut self, _node: u32) -> Option<String> {
        None
    }

    fn too_late(&self, what: &'static str) -> Anomaly {
        Anomaly::of_cluster(Kind::Unavailable, format!("{what} does not come about"))
    }
}

fn set_disk(dir: &SimDir, conditions: disk::Conditions) {
    dir.set_capacity(conditions.full.then_some(0));
    dir.clear_faults();
    let fail = |operation| {
        dir.inject(SimFault { operation, path_contains: String::new(), after: 0, errno: EIO });
    };
    if conditions.fails_reads {
        fail(SimOperation::Read);
    }
    if conditions.fails_writes {
        fail(SimOperation::Write);
        fail(SimOperation::Sync);
    }
}

/// The segments that are not empty, with their lengths.
fn segments_of(dir: &SimDir) -> Vec<(String, usize)> {
    let mut segments = Vec::new();
    for partition in dir.list("").unwrap_or_default() {
        let files = dir.list(&partition.name).unwrap_or_default();
        let files = files.into_iter().filter(|it| it.name.ends_with(".log") && it.len_bytes > 0);
        segments.extend(
            files.map(|it| (format!("{}/{}", partition.name, it.name), it.len_bytes as usize)),
        );
    }
    segments
}
