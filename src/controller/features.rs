//! Finalized levels of features: raised while every broker supports them.

use kafka_protocol::{
    ResponseError,
    messages::{
        UpdateFeaturesRequest, UpdateFeaturesResponse, update_features_request::FeatureUpdateKey,
        update_features_response::UpdatableFeatureResult,
    },
};

use crate::{
    controller::{
        Decision, View, configs,
        draft::{Draft, Refusal, wire},
    },
    metadata::{MetadataImage, features, records::FeatureLevelRecord},
};

/// The numbers of Kafka's `FeatureUpdate.UpgradeType`. Both kinds of downgrade are the same here:
/// what would lose something is refused either way.
const UPGRADE: i8 = 1;
const UPGRADE_TYPES: std::ops::RangeInclusive<i8> = UPGRADE..=3;

/// All or nothing, as in Kafka since version 2 of the request.
pub(super) fn update(
    view: &View<'_>,
    request: UpdateFeaturesRequest,
) -> Decision<UpdateFeaturesResponse> {
    let mut draft = Draft::new(view.image);
    let mut results = Vec::with_capacity(request.feature_updates.len());
    let mut failure = None;
    for update in &request.feature_updates {
        let result = update_one(draft.image(), update).and_then(|record| match record {
            Some(record) => draft.add(vec![record.into()]),
            None => Ok(()),
        });
        let (code, message) = wire(&result);
        failure = failure.or_else(|| result.err());
        results.push(
            UpdatableFeatureResult::default()
                .with_feature(update.feature.clone())
                .with_error_code(code)
                .with_error_message(message),
        );
    }
    let agreed = configs::agree_on_min_isr(&view.at(&draft.image().clone()));
    failure = failure.or_else(|| draft.add(agreed).err());
    let response = UpdateFeaturesResponse::default().with_error_message(None);
    match failure {
        Some(refusal) => {
            let (code, message) = wire::<()>(&Err(refusal));
            let response = response.with_error_code(code).with_error_message(message);
            Decision::answer(response.with_results(results))
        }
        None if request.validate_only => Decision::answer(response.with_results(results)),
        None => draft.decide(response.with_results(results)),
    }
}

fn update_one(
    image: &MetadataImage,
    update: &FeatureUpdateKey,
) -> Result<Option<FeatureLevelRecord>, Refusal> {
    let (name, level) = (update.feature.as_str(), i32::from(update.max_version_level));
    let refuse = |reason: String| {
        let message = format!("Invalid update version {level} for feature {name}. {reason}");
        Err(Refusal::new(ResponseError::InvalidUpdateVersion, message))
    };
    if !UPGRADE_TYPES.contains(&update.upgrade_type) {
        return refuse("This controller does not know the upgrade type.".to_owned());
    }
    let Some(supported) = features::SUPPORTED.iter().find(|feature| feature.name == name) else {
        return refuse("This controller does not support the feature.".to_owned());
    };
    if level < supported.min || level > supported.max {
        return refuse(format!(
            "This controller supports levels {} to {}.",
            supported.min, supported.max
        ));
    }
    for broker in image.brokers() {
        let range = broker.features.iter().find(|feature| feature.name == name);
        let holds = range
            .is_some_and(|r| (r.min_supported_version..=r.max_supported_version).contains(&level));
        if !holds && level != 0 {
            return refuse(format!("Broker {} does not support this level.", broker.id));
        }
    }
    let current = image.feature(name).unwrap_or(0);
    let upgrade = update.upgrade_type == UPGRADE;
    if level < current && upgrade {
        return refuse("Cannot downgrade the level without setting the upgrade type.".to_owned());
    }
    if level > current && !upgrade {
        return refuse("Cannot downgrade to a newer level.".to_owned());
    }
    if level < current && name == features::METADATA_VERSION {
        return refuse("The metadata may hold records of the current level.".to_owned());
    }
    let record = FeatureLevelRecord { name: name.to_owned(), feature_level: level };
    Ok((level != current).then_some(record))
}
