//! The applier: folds committed entries into the image, in order, and publishes it.

use std::{collections::VecDeque, iter, sync::Arc};

use tokio::sync::mpsc;

use super::{Environment, Fatal, StartError, turn::Event};
use crate::quorum::{
    core::{Apply, Committed, Proposed},
    handle::{ProposeDone, ProposeError, Published, Shared, Update},
    identity::Configuration,
    machine::Machine,
    store::{Applied, Pairs, Point, Store},
};

/// What the loop tells the applier.
pub(super) enum ToApply {
    /// Somebody waits for the entry at this place.
    Waiter(Proposed, ProposeDone),
    /// This node leads no more: whoever waits cannot know.
    LeadershipLost,
    Apply(Vec<Apply>),
}

pub(super) struct Applier<M: Machine> {
    pub(super) environment: Environment,
    pub(super) shared: Arc<Shared<M>>,
    pub(super) inbox: mpsc::UnboundedReceiver<ToApply>,
    pub(super) writer: mpsc::Sender<Applied>,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) configuration: Configuration,
    pub(super) waiters: VecDeque<(Proposed, ProposeDone)>,
}

impl<M: Machine> Applier<M> {
    pub(super) async fn run(mut self) {
        while let Some(message) = self.inbox.recv().await {
            match message {
                ToApply::Waiter(place, done) => self.waiters.push_back((place, done)),
                ToApply::LeadershipLost => {
                    for (_, done) in self.waiters.drain(..) {
                        let _ = done.send(Err(ProposeError::LeadershipLost));
                    }
                }
                ToApply::Apply(applies) => {
                    if let Err(fatal) = self.apply_all(applies).await {
                        (self.environment.fatal)(fatal);
                        return;
                    }
                }
            }
        }
    }

    async fn apply_all(&mut self, applies: Vec<Apply>) -> Result<(), Fatal> {
        for apply in applies {
            let applied = match apply {
                Apply::Install(point) => {
                    self.install(point).await?;
                    None
                }
                Apply::Entry(entry) => Some(self.fold(entry)?),
            };
            let index = self.shared.published.load().index;
            let _ = self.events.send(Event::Applied(index));
            if let Some(applied) = applied
                && self.writer.send(applied).await.is_err()
            {
                return Ok(()); // The writer has failed, and said so.
            }
        }
        Ok(())
    }

    fn fold(&mut self, entry: Committed) -> Result<Applied, Fatal> {
        let Committed { index, term, data, configuration } = entry;
        if let Some(configuration) = configuration {
            self.configuration = configuration;
        }
        let mut writes = Vec::new();
        let image = Arc::clone(&self.shared.published.load().image);
        if data.is_empty() {
            self.shared.published.store(Arc::new(Published { index, image }));
        } else {
            let (next, delta) = image.apply(index, &data)?;
            writes = next.writes(&delta);
            let (image, delta) = (Arc::new(next), Arc::new(delta));
            let published = Published { index, image: Arc::clone(&image) };
            self.shared.published.store(Arc::new(published));
            // An error says that nobody listens.
            let _ = self.shared.updates.send(Update::Delta { index, image, delta });
        }
        self.shared.applied.send_replace(index);
        self.answer(index, Some(term));
        let point = Point { index, term, configuration: self.configuration.clone() };
        Ok(Applied { point, writes })
    }

    async fn install(&mut self, point: Point) -> Result<(), Fatal> {
        let store = Arc::clone(&self.environment.store);
        let loading = self.environment.blocking.run_aside(move || load_image::<M>(&*store)).await;
        let Ok(loaded) = loading else { return Ok(()) }; // The process is stopping.
        let image = match loaded {
            Ok((_, image)) => Arc::new(image),
            Err(StartError::Store(error)) => return Err(Fatal::Store(error)),
            Err(StartError::Image(error)) => return Err(Fatal::Apply(error)),
            Err(_) => return Ok(()),
        };
        let index = point.index;
        self.configuration = point.configuration;
        self.shared.published.store(Arc::new(Published { index, image: Arc::clone(&image) }));
        let _ = self.shared.updates.send(Update::Image { index, image });
        self.shared.applied.send_replace(index);
        self.answer(index, None);
        Ok(())
    }

    /// Answers those who wait for an entry up to `index`, whose term is `term`.
    fn answer(&mut self, index: u64, term: Option<u64>) {
        while let Some((place, done)) = self.waiters.pop_front_if(|(p, _)| p.index <= index) {
            let is_it = place.index == index && Some(place.term) == term;
            let _ = done.send(if is_it { Ok(index) } else { Err(ProposeError::LeadershipLost) });
        }
    }
}

/// How much of a stored image is in memory at a time as it is loaded.
const READ_BYTES: usize = 1 << 20;

pub(super) fn load_image<M: Machine>(store: &dyn Store) -> Result<(Point, M), StartError> {
    let mut reader = store.open_image()?;
    let point = reader.point().clone();
    let (mut read, mut last, mut failure) = (Pairs::new().into_iter(), None, None);
    let pairs = iter::from_fn(|| {
        if read.len() == 0 {
            let more = reader.read(last.as_deref(), READ_BYTES);
            let more = more.map_err(|error| failure = Some(error)).ok()?;
            last = more.last().map(|(key, _)| key.clone());
            read = more.into_iter();
        }
        read.next()
    });
    let image = M::load(point.index, &mut pairs.fuse());
    match failure {
        Some(error) => Err(error.into()),
        None => Ok((point, image?)),
    }
}
