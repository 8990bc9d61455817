//! Who works while a run goes on, and how that ends: clients, administrators, and whoever asks each
//! node what it knows.

use std::{sync::Arc, time::Duration};

use ottla::client::{Client, ClientConfig, ClientError, TcpConnect};
use rand::{RngExt as _, rngs::StdRng};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{PAUSE, REQUEST_TIMEOUT, Run, RunError, TOPIC, connect};
use crate::{
    check::{Anomaly, Kind, unread},
    load::{Asked, Role, Worker},
    nodes::{LOOK, Nodes, PATIENCE},
    replicas::{self, ReplicasError},
};

/// How soon after the last write all consumers must have read everything. A member that was cut
/// off is missed after ten seconds.
const READ_AGAIN: Duration = Duration::from_secs(30);
/// How long an administrator waits for an answer.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Who does what in the history, besides the clients.
const ADMINISTRATORS: [u32; 2] = [101, 102];
const MOVER: u32 = 103;
/// And whoever asks a node what it knows, with the node's number.
const WATCHERS: u32 = 200;

impl Run<'_> {
    /// Sets the clients to work. Each has connections of its own.
    pub(super) fn work(&mut self) -> Result<(), RunError> {
        let workers = self.config.clients.workers();
        let writers = workers.iter().filter(|it| it.role == Role::Writer).count();
        // The rate is the same, however many share it.
        self.load.pause = PAUSE * writers as u32;
        let addresses: Vec<_> =
            (1..=self.config.nodes).map(|node| self.cluster.nodes.kafka_address(node)).collect();
        for Worker { process, role, stock } in workers {
            let patience = Duration::from_secs(120);
            let client = connect(
                &self.cluster.nodes,
                self.config,
                REQUEST_TIMEOUT,
                patience,
                &mut self.rng,
            )?;
            let (load, history) = (self.load.clone(), Arc::clone(&self.history));
            let bootstrap = addresses.join(",");
            let (stop, tasks) = match role {
                Role::Writer => (self.stop_writing.subscribe(), &mut self.writers),
                Role::Reader | Role::Member => (self.stop_reading.subscribe(), &mut self.readers),
            };
            tasks.push(tokio::spawn(async move {
                let at = bootstrap.as_str();
                match (role, stock) {
                    (Role::Writer, false) => load.write(process, &client, &history, stop).await,
                    (Role::Writer, true) => load.write_stock(process, at, &history, stop).await,
                    (Role::Reader, false) => load.consume(process, &client, &history, stop).await,
                    (Role::Reader, true) => load.consume_stock(process, at, &history, stop).await,
                    (Role::Member, false) => {
                        load.consume_in_group(process, &client, &history, stop).await;
                    }
                    (Role::Member, true) => {
                        load.consume_in_group_stock(process, at, &history, stop).await;
                    }
                }
            }));
        }
        self.administer()
    }

    /// Sets to work who changes topics and moves replicas, and who asks each node what it knows.
    fn administer(&mut self) -> Result<(), RunError> {
        let mut asked: Vec<Asked> = Vec::new();
        for node in 1..=self.config.nodes {
            let nodes = [node];
            asked.push((
                node,
                connect_to(&self.cluster.nodes, &nodes, ADMIN_TIMEOUT, &mut self.rng)?,
            ));
        }
        for process in ADMINISTRATORS {
            let (load, history) = (self.load.clone(), Arc::clone(&self.history));
            let (asked, stop) = (asked.clone(), self.stop_writing.subscribe());
            self.writers.push(tokio::spawn(async move {
                load.administer(process, &asked, &history, stop).await;
            }));
        }
        for (node, client) in asked {
            let (load, history) = (self.load.clone(), Arc::clone(&self.history));
            let stop = self.stop_reading.subscribe();
            self.readers.push(tokio::spawn(async move {
                load.watch(WATCHERS + node, (node, client), &history, stop).await;
            }));
        }
        let (load, history) = (self.load.clone(), Arc::clone(&self.history));
        let (client, stop) = (self.cluster.client.clone(), self.stop_writing.subscribe());
        let nodes = self.config.nodes;
        self.writers.push(tokio::spawn(async move {
            load.rearrange(MOVER, &client, nodes, &history, stop).await;
        }));
        Ok(())
    }

    /// Writers end, then consumers, once these have read everything.
    pub(super) async fn end_work(&mut self) -> Result<(), RunError> {
        self.stop_writing.send_replace(true);
        let writers = std::mem::take(&mut self.writers);
        self.join(writers).await;
        let written = Instant::now();
        let unread = loop {
            let unread = unread(self.history.lock().ops());
            if unread.is_empty() || written.elapsed() >= READ_AGAIN {
                break unread;
            }
            self.cluster.nodes.are_alive()?;
            sleep(LOOK * 10).await;
        };
        self.anomalies.extend(unread);
        self.stop_reading.send_replace(true);
        let readers = std::mem::take(&mut self.readers);
        self.join(readers).await;
        Ok(())
    }

    /// Waits until no replica is on the move.
    pub(super) async fn arrived(&mut self) -> Result<(), RunError> {
        let since = Instant::now();
        loop {
            let moving = self.cluster.client.list_reassignments().await?;
            let ours = moving.iter().filter(|it| &*it.partition.topic == TOPIC).count();
            if ours == 0 {
                break;
            }
            if since.elapsed() >= PATIENCE {
                let says = format!("{ours} partitions are still on the move after {PATIENCE:?}");
                self.anomalies.push(Anomaly::of_cluster(Kind::Unavailable, says));
                break;
            }
            self.cluster.nodes.are_alive()?;
            sleep(LOOK * 10).await;
        }
        let factor = self.config.replication_factor;
        match replicas::in_sync(&mut self.cluster.nodes, &self.cluster.client, TOPIC, factor).await
        {
            // Told of above, if it began then.
            Ok(()) | Err(ReplicasError::OutOfSync(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn join(&self, tasks: Vec<JoinHandle<()>>) {
        for task in tasks {
            if let Err(error) = task.await {
                self.history.lock().failed(0, &error);
            }
        }
    }
}

/// A client that knows these nodes, and others only if it is told of them.
fn connect_to(
    nodes: &Nodes,
    known: &[u32],
    request_timeout: Duration,
    rng: &mut StdRng,
) -> Result<Client, ClientError> {
    let config = ClientConfig {
        bootstrap: known.iter().map(|node| nodes.kafka_address(*node)).collect(),
        client_id: "chaos".to_owned(),
        connect_timeout: Duration::from_secs(1),
        request_timeout,
        seed: rng.random(),
        ..ClientConfig::default()
    };
    Client::new(config, Arc::new(TcpConnect))
}
