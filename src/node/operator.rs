//! What operators ask of a node beside its figures: the cluster and its voters.
//!
//! | request | answer |
//! |---|---|
//! | `GET /cluster` | how this node stands: whether it takes part, and where the leader is |
//! | `GET /cluster/status` | the same, and what each broker of the cluster holds and does |
//! | `POST /cluster/bootstrap` `{"voters":[1,2,3]}` | founds the cluster |
//! | `GET /quorum` | the quorum as its leader sees it |
//! | `POST /quorum/voters` `{"change":"add","node":4}` | adds or removes a voter, or moves the leadership |
//!
//! What goes wrong is `{"error": …}` with 409 where it was refused, 503 where nobody could say. A
//! body must be declared as JSON, so that no web page that an operator looks at can send one
//! unasked.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    base::{DirectoryId, NodeId},
    cluster::{Cluster, FoundingSummary, LeaderError, QuorumSummary, VotersChange, VotersError},
};

/// How long the leader may take, unless the request says otherwise.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that a request may ask for.
const LONGEST: Duration = Duration::from_secs(3600);

/// What operators may ask of a node; filled in once the node knows who it is. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Operator(Arc<OnceLock<Cluster>>);

/// A change of the voters that an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VotersRequest {
    /// What to do.
    pub change: VotersChangeRequest,
    /// Whom it is about.
    pub node: u32,
    /// The node's directory, where two may be meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// How long it may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// See [`VotersRequest::change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VotersChangeRequest {
    /// A learner becomes a voter.
    Add,
    /// A voter becomes a learner, and is not promoted again by itself.
    Remove,
    /// A voter becomes the leader.
    Lead,
}

/// A founding that an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootstrapRequest {
    /// The first voters.
    pub voters: BTreeSet<u32>,
}

#[derive(Debug, Default, Deserialize)]
struct Patience {
    timeout_ms: Option<u64>,
}

fn deadline(timeout_ms: Option<u64>) -> Instant {
    Instant::now() + timeout_ms.map_or(PATIENCE, Duration::from_millis).min(LONGEST)
}

type Failure = (StatusCode, Json<serde_json::Value>);

fn failure(status: StatusCode, error: &dyn std::error::Error) -> Failure {
    (status, Json(json!({ "error": error.to_string() })))
}

fn leader_failure(error: &LeaderError) -> Failure {
    failure(StatusCode::SERVICE_UNAVAILABLE, error)
}

impl Operator {
    pub(super) fn serve(&self, cluster: Cluster) {
        drop(self.0.set(cluster));
    }

    /// The node's part in its cluster, once it knows who it is.
    #[must_use]
    pub fn cluster(&self) -> Option<Cluster> {
        self.0.get().cloned()
    }

    fn ready(&self) -> Result<Cluster, Failure> {
        self.cluster().ok_or_else(|| {
            let error = json!({ "error": "the node is starting: try again in a moment" });
            (StatusCode::SERVICE_UNAVAILABLE, Json(error))
        })
    }

    pub(super) fn routes(&self) -> Router {
        Router::new()
            .route("/cluster", get(standing))
            .route("/cluster/status", get(status))
            .route("/cluster/bootstrap", post(bootstrap))
            .route("/quorum", get(describe))
            .route("/quorum/voters", post(change_voters))
            .with_state(self.clone())
    }
}

async fn standing(State(operator): State<Operator>) -> Result<Response, Failure> {
    let cluster = operator.ready()?;
    Ok(Json(cluster.summary()).into_response())
}

async fn status(
    State(operator): State<Operator>,
    Query(patience): Query<Patience>,
) -> Result<Response, Failure> {
    let cluster = operator.ready()?;
    let summary = cluster.cluster_summary(deadline(patience.timeout_ms)).await;
    Ok(Json(summary).into_response())
}

async fn bootstrap(
    State(operator): State<Operator>,
    Json(request): Json<BootstrapRequest>,
) -> Result<Response, Failure> {
    let voters = request.voters.into_iter().map(NodeId).collect();
    let founded = operator.ready()?.bootstrap(&voters).await;
    let founded = founded.map_err(|error| failure(StatusCode::CONFLICT, &error))?;
    Ok(Json(FoundingSummary::from(founded)).into_response())
}

async fn describe(
    State(operator): State<Operator>,
    Query(patience): Query<Patience>,
) -> Result<Response, Failure> {
    let cluster = operator.ready()?;
    let described = cluster.describe(deadline(patience.timeout_ms)).await;
    let described = described.map_err(|error| leader_failure(&error))?;
    Ok(Json(QuorumSummary::from(&described)).into_response())
}

async fn change_voters(
    State(operator): State<Operator>,
    Json(request): Json<VotersRequest>,
) -> Result<Response, Failure> {
    let directory = request.directory.as_deref().map(str::parse::<DirectoryId>).transpose();
    let directory = directory.map_err(|error| failure(StatusCode::BAD_REQUEST, &error))?;
    let change = match request.change {
        VotersChangeRequest::Add => VotersChange::Add,
        VotersChangeRequest::Remove => VotersChange::Remove,
        VotersChangeRequest::Lead => VotersChange::Lead,
    };
    let (cluster, node) = (operator.ready()?, NodeId(request.node));
    let deadline = deadline(request.timeout_ms);
    match cluster.change_voters(change, node, directory, deadline).await {
        Ok(()) => Ok(Json(json!({})).into_response()),
        Err(error @ VotersError::Refused(_)) => Err(failure(StatusCode::CONFLICT, &error)),
        Err(VotersError::Leader(error)) => Err(leader_failure(&error)),
    }
}
