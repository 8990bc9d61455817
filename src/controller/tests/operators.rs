//! What operators ask for: elections, levels of features, voters.

use kafka_protocol::messages::{
    ElectLeadersRequest, elect_leaders_request::TopicPartitions,
    elect_leaders_response::PartitionResult,
};

use super::*;
use crate::metadata::records::FeatureLevelRecord;

const ELR: &str = "eligible.leader.replicas.version";

impl World {
    pub(super) fn elect(
        &mut self,
        election_type: i8,
        partitions: Option<&[(&str, i32)]>,
    ) -> Vec<(String, i32, i16)> {
        let asked = partitions.map(|partitions| {
            let one = |(name, index): &(&str, i32)| {
                TopicPartitions::default()
                    .with_topic(TopicName(text(name)))
                    .with_partitions(vec![*index])
            };
            partitions.iter().map(one).collect()
        });
        let request = ElectLeadersRequest::default()
            .with_election_type(election_type)
            .with_topic_partitions(asked);
        let Response::ElectLeaders(response) = self.submit(Request::ElectLeaders(request)) else {
            panic!("another answer");
        };
        let results = response.replica_election_results.into_iter().flat_map(|topic| {
            let name = topic.topic.to_string();
            let one = move |p: PartitionResult| (name.clone(), p.partition_id, p.error_code);
            topic.partition_result.into_iter().map(one)
        });
        results.collect()
    }

    fn update_feature(
        &mut self,
        name: &str,
        level: i16,
        upgrade_type: i8,
        validate_only: bool,
    ) -> i16 {
        self.update_level(name, level, upgrade_type, validate_only).0
    }

    /// The same, with what the answer says.
    fn update_level(
        &mut self,
        name: &str,
        level: i16,
        upgrade_type: i8,
        validate_only: bool,
    ) -> (i16, String) {
        let key = FeatureUpdateKey::default()
            .with_feature(text(name))
            .with_max_version_level(level)
            .with_upgrade_type(upgrade_type);
        let request = UpdateFeaturesRequest::default()
            .with_feature_updates(vec![key])
            .with_validate_only(validate_only);
        match self.submit(Request::UpdateFeatures(request)) {
            Response::UpdateFeatures(response) => {
                let said = response.error_message.map(|text| text.to_string());
                (response.error_code, said.unwrap_or_default())
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_preferred_replica_leads_when_asked_and_in_sync() {
    let mut world = World::with_brokers(2);
    world.create(vec![assigned("a", &[(0, &[1, 2])]), assigned("b", &[(0, &[2, 1])])]);
    world.shut_down(1);
    let epoch = world.epoch(1);
    world.start(1, epoch);
    assert_eq!(world.partition("a", 0).leader, Some(NodeId(2)));
    let code = |error: ResponseError| error.code();
    let unavailable = code(ResponseError::PreferredLeaderNotAvailable);
    assert_eq!(world.elect(0, Some(&[("a", 0)])), [("a".to_owned(), 0, unavailable)]);
    assert_eq!(world.alter_isr("a", &[2, 1]), 0);
    let asked: &[_] = &[("a", 0), ("a", 0), ("a", 7), ("b", 0), ("c", 0)];
    let needless = code(ResponseError::ElectionNotNeeded);
    let unknown = code(ResponseError::UnknownTopicOrPartition);
    let expected =
        [("a", 0, 0), ("a", 0, needless), ("a", 7, unknown), ("b", 0, needless), ("c", 0, unknown)];
    let expected: Vec<_> = expected.map(|(t, p, c)| (t.to_owned(), p, c)).to_vec();
    assert_eq!(world.elect(0, Some(asked)), expected);
    assert_eq!(world.partition("a", 0).leader, Some(NodeId(1)));
    assert_eq!(world.elect(0, None), [], "all is as preferred");
}

#[test]
fn an_unclean_election_is_held_only_where_it_is_asked_for() {
    let mut world = World::with_brokers(2);
    world.create(vec![assigned("a", &[(0, &[1, 2])]), assigned("b", &[(0, &[2, 1])])]);
    assert_eq!(world.alter_isr("a", &[1]), 0);
    world.now_ms += SESSION_MS - 1;
    world.heartbeat(2, false);
    world.wait(1);
    assert_eq!(world.partition("a", 0).leader, None);
    assert_eq!(world.elect(0, None), [], "the preferred replica is gone");
    assert_eq!(world.elect(1, None), [("a".to_owned(), 0, 0)]);
    let partition = world.partition("a", 0);
    assert_eq!((partition.leader, partition.recovering), (Some(NodeId(2)), true));
    let request = ElectLeadersRequest::default().with_election_type(2);
    let Response::ElectLeaders(response) = world.submit(Request::ElectLeaders(request)) else {
        panic!("another answer");
    };
    assert_eq!(response.error_code, ResponseError::InvalidRequest.code());
}

#[test]
fn a_level_goes_the_way_that_the_upgrade_type_says() {
    let mut world = World::with_brokers(1);
    let refused = ResponseError::InvalidUpdateVersion.code();
    let steps = [
        (1, 1, false, 0, Some(1)),
        (0, 1, false, refused, Some(1)),
        (0, 9, false, refused, Some(1)),
        (0, 2, true, 0, Some(1)),
        (0, 2, false, 0, None),
        (1, 3, false, refused, None),
        (1, 1, true, 0, None),
        (1, 1, false, 0, Some(1)),
        (0, 3, false, 0, None),
    ];
    for (level, upgrade_type, validate_only, code, after) in steps {
        assert_eq!(world.update_feature(ELR, level, upgrade_type, validate_only), code);
        assert_eq!(world.image.feature(ELR), after);
    }
}

#[test]
fn the_metadata_say_the_minimum_whatever_the_files_of_nodes_do() {
    const MIN_ISR: &str = "min.insync.replicas";
    let (all, one) = (ConfigResource::all_brokers(), ConfigResource::broker(NodeId(1)));
    let mut world = World::with_brokers(1);
    assert_eq!(world.image.config_value(&all, MIN_ISR), Some("1"));
    // Without eligible leader replicas nothing rests on it.
    assert_eq!(world.update_feature(ELR, 0, 2, false), 0);
    assert_eq!(world.alter_config(4, "", &[(MIN_ISR, 1, None)]), 0);
    assert_eq!(world.alter_config(4, "1", &[(MIN_ISR, 0, Some("3"))]), 0);
    let activate = |world: &mut World, min_isr: &str| {
        let mut config = Config::defaults(NodeId(2), ClusterId(Uuid::from_u128(1)));
        config.file = [(MIN_ISR.to_owned(), min_isr.to_owned())].into();
        world.controller = Controller::activate(config, &world.image, world.now_ms);
        let batches = world.controller.begin(&world.image);
        world.apply(&batches);
    };
    activate(&mut world, "2");
    assert_eq!(world.image.config_value(&all, MIN_ISR), None);
    assert_eq!(world.update_feature(ELR, 1, 1, false), 0);
    assert_eq!(world.image.config_value(&all, MIN_ISR), Some("2"));
    assert_eq!(world.image.config_value(&one, MIN_ISR), None);
    // The next controller has another file.
    activate(&mut world, "3");
    assert_eq!(world.image.config_value(&all, MIN_ISR), Some("2"));
    let refused = ResponseError::InvalidConfig.code();
    assert_eq!(world.alter_config(4, "", &[(MIN_ISR, 1, None)]), refused);
    assert_eq!(world.alter_config(4, "", &[(MIN_ISR, 0, Some("1"))]), 0);
}

#[test]
fn a_voter_that_was_removed_stays_so_until_it_is_allowed_again() {
    let mut world = World::new();
    for excluded in [true, true, false, true] {
        let request = ExcludeVoterRequest { node_id: 3, excluded };
        let response = world.submit(Request::ExcludeVoter(request));
        assert_eq!(response, Response::ExcludeVoter(ExcludeVoterResponse { error_code: 0 }));
        assert_eq!(world.image.is_excluded_voter(NodeId(3)), excluded);
        world.check_store();
    }
    assert_eq!(world.image.excluded_voters().collect::<Vec<_>>(), [NodeId(3)]);
}

#[test]
fn a_feature_is_not_raised_beyond_what_a_broker_supports() {
    let mut world = World::with_brokers(1);
    let refused = ResponseError::InvalidUpdateVersion.code();
    assert_eq!(world.update_feature(features::METADATA_VERSION, 99, 1, false), refused);
    assert_eq!(world.update_feature("no.such.feature", 1, 1, false), refused);
}

/// A rolling upgrade: a cluster of an older release, whose nodes are replaced one by one.
#[test]
fn records_of_a_newer_release_wait_until_every_node_reads_them_and_the_level_is_raised() {
    let mut world = World::new();
    let older = FeatureLevelRecord { name: features::METADATA_VERSION.into(), feature_level: 1 };
    world.apply(&[Batch::new(vec![older.into()])]);
    world.release = 1;
    world.start(3, -1);
    world.release = features::METADATA_VERSION_MAX;
    (1..=2).for_each(|id| world.start(id, -1));
    let exclude = Request::ExcludeVoter(ExcludeVoterRequest { node_id: 9, excluded: true });
    let unsupported = i32::from(ResponseError::UnsupportedVersion.code());
    let gated = Response::ExcludeVoter(ExcludeVoterResponse { error_code: unsupported });
    assert_eq!(world.submit(exclude.clone()), gated);

    let refused = ResponseError::InvalidUpdateVersion.code();
    let (code, said) = world.update_level(features::METADATA_VERSION, 2, 1, false);
    assert!(code == refused && said.contains("Broker 3 does not support"), "{code} {said}");
    let epoch = world.epoch(3);
    world.start(3, epoch);
    assert_eq!(world.submit(exclude.clone()), gated);
    assert_eq!(world.update_feature(features::METADATA_VERSION, 2, 1, false), 0);
    let done = Response::ExcludeVoter(ExcludeVoterResponse { error_code: 0 });
    assert_eq!(world.submit(exclude), done);

    // There is no way back, and none for nodes of the older release.
    let (code, said) = world.update_level(features::METADATA_VERSION, 1, 2, false);
    assert!(code == refused && said.contains("may hold records of the current level"), "{said}");
    world.release = 1;
    assert_eq!(world.register(4, -1), ResponseError::UnsupportedVersion.code());
    world.check_store();
}
