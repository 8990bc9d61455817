//! Requests to the active controller, wherever it is.

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Cluster, LeaderError,
    wire::{Answer, Ask, Decided, Done},
};
use crate::{
    controller::{
        Request, Response,
        driver::{RequestError, RequestId},
        wire,
    },
    metadata::features,
};

/// Asks the active controller, over changes of it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Controllers(Cluster);

impl Cluster {
    /// The way to the active controller.
    #[must_use]
    pub fn controllers(&self) -> Controllers {
        Controllers(self.clone())
    }

    /// Decides a request of another node, if the controller is here.
    pub(super) async fn decide_for(&self, request: Bytes, deadline: Instant) -> Answer {
        let (request, id) = match wire::decode_request(request) {
            Ok(decoded) => decoded,
            Err(error) => return Answer::refused(error),
        };
        match self.decide_here(request, id, deadline).await {
            Ok((response, index)) => {
                let response = wire::encode_response(&response);
                response.map_or_else(Answer::refused, |response| {
                    Answer::Decided(Decided { response, index })
                })
            }
            Err(RequestError::NotController) => self.not_leader(),
            // There is no more to say than that something was done.
            Err(RequestError::Begun) => Answer::Done(Done {}),
            Err(_) => Answer::Unknown(Done {}),
        }
    }

    pub(super) async fn decide_here(
        &self,
        request: Request,
        id: Option<RequestId>,
        deadline: Instant,
    ) -> Result<(Response, u64), RequestError> {
        let (Some(controller), Some(quorum)) = (self.0.controller.get(), self.quorum()) else {
            return Err(RequestError::NotController);
        };
        let response = controller.request(request, id, deadline).await?;
        Ok((response, quorum.applied_index()))
    }
}

impl Controllers {
    /// Has the controller decide, and returns its answer with the index of an entry by which an
    /// image holds all that the answer says. A change of the controller meanwhile is waited out. A
    /// request with an `id` is not decided twice: where the cluster is too old to remember it, it
    /// is not sent again where it may have been decided.
    ///
    /// # Errors
    /// Where no controller answered in time. See [`LeaderError`].
    pub async fn request(
        &self,
        request: Request,
        id: Option<RequestId>,
        deadline: Instant,
    ) -> Result<(Response, u64), LeaderError> {
        let quorum = self.0.quorum().ok_or(LeaderError::NoCluster)?;
        let again = id.is_none() || quorum.image().metadata_version() >= features::REQUESTS;
        self.send(request, id, again, deadline).await
    }

    /// As [`Controllers::request`], for a request that must not be on its way twice: once it may
    /// have been taken, it is not sent again. Whoever asks has to know of every copy.
    ///
    /// # Errors
    /// See [`LeaderError`].
    pub async fn request_once(
        &self,
        request: Request,
        deadline: Instant,
    ) -> Result<(Response, u64), LeaderError> {
        self.send(request, None, false, deadline).await
    }

    async fn send(
        &self,
        request: Request,
        id: Option<RequestId>,
        again: bool,
        deadline: Instant,
    ) -> Result<(Response, u64), LeaderError> {
        let cluster = &self.0;
        let quorum = cluster.quorum().ok_or(LeaderError::NoCluster)?;
        let mut unknown = false;
        // While the controller is here, which on most clusters' first node it is, nothing is
        // encoded.
        if quorum.status().is_leader() {
            match cluster.decide_here(request.clone(), id, deadline).await {
                Ok(decided) => return Ok(decided),
                Err(RequestError::NotController) => {}
                Err(RequestError::Begun) => return Err(LeaderError::Unknown),
                Err(_) if !again => return Err(LeaderError::Unknown),
                Err(_) => unknown = true,
            }
        }
        let encoded = wire::encode_request(&request, id).map_err(|_| LeaderError::NoLeader)?;
        let ask = Ask::Controller(encoded);
        match cluster.ask_leader(&ask, again, deadline).await {
            Ok(Answer::Decided(Decided { response, index })) => {
                let response = wire::decode_response(response);
                Ok((response.map_err(|_| LeaderError::Unknown)?, index))
            }
            Ok(Answer::Done(_)) => Err(LeaderError::Unknown),
            Ok(_) => Err(LeaderError::NoLeader),
            Err(LeaderError::NoLeader) if unknown => Err(LeaderError::Unknown),
            Err(error) => Err(error),
        }
    }

    /// A name for a request that is to be decided once.
    #[must_use]
    pub fn new_id(&self) -> RequestId {
        RequestId(self.0.new_id())
    }
}
