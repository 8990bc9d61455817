//! Asks a node's HTTP endpoint for operators.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::TcpStream, time::timeout};

use super::failure::Failure;

/// More than any answer has.
const ANSWER_MAX_BYTES: usize = 16 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which node to ask.
#[derive(Debug, Clone, Args)]
pub(super) struct OperatorArgs {
    /// The operator endpoint (ottla.http.listener) of any node, as HOST:PORT
    #[arg(
        short = 'H',
        long = "http",
        env = "OTTLA_HTTP",
        default_value = "127.0.0.1:9644",
        value_name = "HOST:PORT"
    )]
    pub(super) address: String,
}

/// Why a node's operator endpoint gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum OperatorError {
    /// Nobody is there.
    #[error("no node answers at {address}: {reason}")]
    Unreachable { address: String, reason: Box<str> },
    /// It did not answer in time.
    #[error("{address} did not answer in time")]
    TimedOut { address: String },
    /// It will not.
    #[error("{0}")]
    Refused(Box<str>),
    /// It cannot now.
    #[error("{0}")]
    Unavailable(Box<str>),
    /// Something else is there.
    #[error("{address} is not the operator endpoint of a node of this release")]
    Strange { address: String },
}

impl OperatorError {
    pub(super) const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Unavailable(_))
    }
}

#[derive(serde::Deserialize)]
struct Problem {
    error: String,
}

impl OperatorArgs {
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        patience: Duration,
    ) -> Result<T, Failure> {
        self.ask(Method::GET, path, Bytes::new(), patience).await
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<T, Failure> {
        self.ask(Method::POST, path, serde_json::to_vec(body)?.into(), patience).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<T, Failure> {
        let address = self.address.clone();
        let late = || OperatorError::TimedOut { address: self.address.clone() };
        let strange = || OperatorError::Strange { address: self.address.clone() };
        let unreachable = |error: &dyn std::error::Error| OperatorError::Unreachable {
            address: self.address.clone(),
            reason: error.to_string().into(),
        };
        let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(&address)).await;
        let stream = connecting.map_err(|_| late())?.map_err(|error| unreachable(&error))?;
        let exchange = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| unreachable(&error))?;
            // Ends with the sender.
            tokio::spawn(connection);
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(header::HOST, &address)
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(body))
                .map_err(|error| unreachable(&error))?;
            let response = sender.send_request(request).await;
            let response = response.map_err(|error| unreachable(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
            let body = body.map_err(|error| unreachable(&*error))?.to_bytes();
            Ok::<_, OperatorError>((status, body))
        };
        let (status, body) = timeout(patience, exchange).await.map_err(|_| late())??;
        if status.is_success() {
            return Ok(serde_json::from_slice(&body).map_err(|_| strange())?);
        }
        let problem: Problem = serde_json::from_slice(&body).map_err(|_| strange())?;
        let text = problem.error.into();
        Err(match status {
            StatusCode::SERVICE_UNAVAILABLE => OperatorError::Unavailable(text),
            _ => OperatorError::Refused(text),
        }
        .into())
    }
}
