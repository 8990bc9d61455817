//! `cert`: makes and shows certificates of the cluster plane.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{failure::Failure, output::Out};
use crate::{
    base::{Clock as _, ClusterId, NodeId, SystemClock},
    cert::{self, Files, NewNode, Request, Summary},
};

#[derive(Debug, Subcommand)]
pub(super) enum Cert {
    /// Make a CA, and with it the id of a new cluster
    Ca {
        /// Where its certificate and its key go; keep the key off the nodes
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// A cluster that exists, for another CA beside its first; a new cluster where not given
        #[arg(long, value_name = "CLUSTER", allow_hyphen_values = true)]
        cluster: Option<String>,
        /// How many days it lasts
        #[arg(long, default_value_t = 3650, value_name = "DAYS")]
        days: u32,
    },
    /// Make a node's certificate, signed by a CA of 'cert ca'
    Node(Node),
    /// Make a key and a request, for a CA of your own to sign
    Request(OwnCa),
    /// Show whose certificates are, and when they end
    Show {
        /// A certificate (PEM), or a directory that 'cert' made
        path: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct Node {
    /// The directory of the CA
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// The node's id
    #[arg(long, value_name = "ID")]
    node: u32,
    /// A host name or address of the node; may be given again
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// Where its files go; a directory node-ID beside the CA where not given
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How many days it lasts
    #[arg(long, default_value_t = 365, value_name = "DAYS")]
    days: u32,
    /// Replace a certificate that exists; a running node takes it up by itself
    #[arg(long)]
    renew: bool,
}

#[derive(Debug, Args)]
pub(super) struct OwnCa {
    /// The node's id
    #[arg(long, value_name = "ID")]
    node: u32,
    /// The cluster's id, as the first request printed it; a new one where not given
    #[arg(long, value_name = "CLUSTER", allow_hyphen_values = true)]
    cluster: Option<String>,
    /// A host name or address of the node; may be given again
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// Where the key and the request go
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn run(command: Cert, out: &mut Out) -> Result<(), Failure> {
    let now_ms = SystemClock.wall_ms();
    match command {
        Cert::Ca { dir, cluster, days } => ca(&dir, cluster, days, now_ms, out),
        Cert::Node(node) => make_node(node, now_ms, out),
        Cert::Request(request) => make_request(request, out),
        Cert::Show { path } => show(&path, now_ms, out),
    }
}

#[derive(Serialize)]
struct Made<'a> {
    cluster_id: String,
    files: Vec<&'a Path>,
}

fn cluster_id(text: Option<String>) -> Result<Option<ClusterId>, Failure> {
    let parsed = text.map(|text| text.parse::<ClusterId>()).transpose();
    parsed.map_err(|error| Failure::usage(format!("--cluster: {error}")))
}

fn ca(
    dir: &Path,
    cluster: Option<String>,
    days: u32,
    now_ms: i64,
    out: &mut Out,
) -> Result<(), Failure> {
    let cluster_id = cert::new_ca(dir, cluster_id(cluster)?, now_ms, Some(days))?.to_string();
    let shown = dir.display();
    if out.is_json() {
        let files = vec![dir];
        return out.json(&Made { cluster_id, files });
    }
    out.note(&format!("made the CA of cluster {cluster_id} in {shown}"))?;
    out.note(&format!(
        "  next: for every node, 'ottla cert node --ca {shown} --node ID --host NAME'"
    ))
}

fn make_node(node: Node, now_ms: i64, out: &mut Out) -> Result<(), Failure> {
    let directory = node.dir.unwrap_or_else(|| node.ca.join(format!("node-{}", node.node)));
    let new = NewNode {
        ca: node.ca,
        directory,
        node_id: NodeId(node.node),
        hosts: node.host,
        days: node.days,
        renew: node.renew,
    };
    let files = cert::new_node(&new, now_ms)?;
    let cluster_id = files.load(new.node_id, now_ms)?.cluster_id().to_string();
    let Files { ca, certificate, key } = &files;
    if out.is_json() {
        return out.json(&Made { cluster_id, files: vec![ca, certificate, key] });
    }
    out.note(&format!("made the certificate of node {} of cluster {cluster_id}", new.node_id))?;
    out.note("  next: in the node's file, with the paths that they have there:")?;
    for (name, path) in [("ca", ca), ("cert", certificate), ("key", key)] {
        out.note(&format!("    ottla.cluster.tls.{name} = {:?}", path.display().to_string()))?;
    }
    Ok(())
}

fn make_request(own: OwnCa, out: &mut Out) -> Result<(), Failure> {
    let cluster_id = cluster_id(own.cluster)?;
    let request =
        Request { directory: own.dir, cluster_id, node_id: NodeId(own.node), hosts: own.host };
    let (cluster_id, path) = cert::new_request(&request)?;
    let cluster_id = cluster_id.to_string();
    if out.is_json() {
        return out.json(&Made { cluster_id, files: vec![&path] });
    }
    out.note(&format!("made a request for node {} of cluster {cluster_id}", own.node))?;
    out.note(&format!(
        "  next: have your CA sign {}, with its names and its extended key usages (serverAuth, \
         clientAuth) as they are; for the other nodes pass --cluster {cluster_id}",
        path.display()
    ))
}

#[derive(Serialize)]
struct Row {
    file: PathBuf,
    valid: bool,
    days_left: i64,
    #[serde(flatten)]
    certificate: Summary,
}

fn show(path: &Path, now_ms: i64, out: &mut Out) -> Result<(), Failure> {
    let files = if path.is_dir() {
        let found = [path.join("ca.crt"), path.join("node.crt")];
        found.into_iter().filter(|file| file.exists()).collect()
    } else {
        vec![path.to_owned()]
    };
    if files.is_empty() {
        return Err(Failure::usage(format!(
            "{} holds neither ca.crt nor node.crt",
            path.display()
        )));
    }
    let mut rows = Vec::new();
    for file in files {
        for certificate in cert::read_summaries(&file)? {
            rows.push(Row {
                file: file.clone(),
                valid: (certificate.not_before_ms..=certificate.not_after_ms).contains(&now_ms),
                days_left: (certificate.not_after_ms - now_ms).div_euclid(86_400_000),
                certificate,
            });
        }
    }
    let columns = ["file", "kind", "cluster", "node", "hosts", "valid until", "days left"];
    out.rows(&rows, &columns, |row| {
        let one = &row.certificate;
        vec![
            row.file.display().to_string(),
            if one.is_ca { "CA" } else { "node" }.to_owned(),
            one.cluster_id.clone().unwrap_or_else(|| "-".to_owned()),
            one.node_id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
            if one.hosts.is_empty() { "-".to_owned() } else { one.hosts.join(",") },
            one.last_day().to_string(),
            if row.valid { row.days_left.to_string() } else { "not valid now".to_owned() },
        ]
    })
}
