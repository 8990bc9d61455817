//! Settings of topics and brokers.

use super::*;

#[test]
fn lists_are_appended_to_and_subtracted_from() {
    let mut world = World::with_brokers(1);
    world.create_one(topic("a", 1, 1));
    assert_eq!(world.alter_config(2, "a", &[("cleanup.policy", 2, Some("compact"))]), 0);
    assert_eq!(world.config("a", "cleanup.policy"), Some("delete,compact"));
    assert_eq!(world.alter_config(2, "a", &[("cleanup.policy", 3, Some("delete"))]), 0);
    assert_eq!(world.config("a", "cleanup.policy"), Some("compact"));
    let invalid = ResponseError::InvalidConfig.code();
    assert_eq!(world.alter_config(2, "a", &[("retention.ms", 2, Some("1"))]), invalid);
    assert_eq!(world.alter_config(2, "a", &[("cleanup.policy", 1, None)]), 0);
    assert_eq!(world.config("a", "cleanup.policy"), None);
    let unknown = ResponseError::UnknownTopicOrPartition.code();
    assert_eq!(world.alter_config(2, "b", &[("retention.ms", 0, Some("1"))]), unknown);
    assert_eq!(world.alter_config(4, "", &[("log.retention.ms", 0, Some("5"))]), 0);
    let unregistered = ResponseError::BrokerIdNotRegistered.code();
    assert_eq!(world.alter_config(4, "9", &[("log.retention.ms", 0, Some("5"))]), unregistered);
    world.check_store();
}
