//! Registrations, and the producer ids that brokers ask for.

use super::*;

#[test]
fn a_former_registration_is_refused() {
    let mut world = World::with_brokers(1);
    let old = world.epoch(1);
    world.start(1, old);
    let request =
        AllocateProducerIdsRequest::default().with_broker_id(BrokerId(1)).with_broker_epoch(old);
    let Response::AllocateProducerIds(response) =
        world.submit(Request::AllocateProducerIds(request))
    else {
        panic!("another answer");
    };
    assert_eq!(response.error_code, ResponseError::StaleBrokerEpoch.code());
}

#[test]
fn producer_ids_are_never_given_twice() {
    let mut world = World::with_brokers(2);
    let mut next = 0;
    for id in [1, 2, 1] {
        let request = AllocateProducerIdsRequest::default()
            .with_broker_id(BrokerId(id))
            .with_broker_epoch(world.epoch(id as u32));
        let Response::AllocateProducerIds(response) =
            world.submit(Request::AllocateProducerIds(request))
        else {
            panic!("another answer");
        };
        assert_eq!((response.producer_id_start.0, response.producer_id_len), (next, 1000));
        next += 1000;
    }
    world.check_store();
}
