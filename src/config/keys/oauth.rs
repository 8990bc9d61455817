//! Broker keys of SASL/OAUTHBEARER.

use crate::config::definition::definitions;
use crate::config::validator::Validator::{Any, Between, List, OneOfAnyCase};

definitions! {
    OAUTH:
    "sasl.oauthbearer.assertion.algorithm": String = Some("RS256"),
        OneOfAnyCase(&["ES256", "RS256"]), Medium, ReadOnly,
        "Algorithm that signs the client's assertion";
    "sasl.oauthbearer.assertion.claim.aud": String = None, Any, Medium, ReadOnly,
        "Audience claim of the client's assertion";
    "sasl.oauthbearer.assertion.claim.exp.seconds": Int = Some("300"),
        Between(0, 86_400), Low, ReadOnly,
        "Seconds until the client's assertion expires";
    "sasl.oauthbearer.assertion.claim.iss": String = None, Any, Medium, ReadOnly,
        "Issuer claim of the client's assertion";
    "sasl.oauthbearer.assertion.claim.jti.include": Boolean = Some("false"), Any, Medium, ReadOnly,
        "Give each client assertion an id";
    "sasl.oauthbearer.assertion.claim.nbf.seconds": Int = Some("60"),
        Between(0, 3600), Low, ReadOnly,
        "Seconds before now from which the client's assertion holds";
    "sasl.oauthbearer.assertion.claim.sub": String = None, Any, Medium, ReadOnly,
        "Subject claim of the client's assertion";
    "sasl.oauthbearer.assertion.file": String = None, Any, Medium, ReadOnly,
        "File with a client assertion made beforehand";
    "sasl.oauthbearer.assertion.private.key.file": String = None, Any, Medium, ReadOnly,
        "File with the key that signs the client's assertion";
    "sasl.oauthbearer.assertion.private.key.passphrase": Password = None, Any, Medium, ReadOnly,
        "Passphrase of the key that signs the client's assertion";
    "sasl.oauthbearer.assertion.template.file": String = None, Any, Medium, ReadOnly,
        "File with header and claims of the client's assertion";
    "sasl.oauthbearer.client.credentials.client.id": String = None, Any, Medium, ReadOnly,
        "Client id for the client-credentials grant";
    "sasl.oauthbearer.client.credentials.client.secret": Password = None, Any, Medium, ReadOnly,
        "Client secret for the client-credentials grant";
    "sasl.oauthbearer.clock.skew.seconds": Int = Some("30"), Any, Low, ReadOnly,
        "Seconds by which clocks may differ when a token is checked";
    "sasl.oauthbearer.expected.audience": List = Some(""),
        List { may_be_empty: true }, High, ReadOnly,
        "Audiences of which a token must name one";
    "sasl.oauthbearer.expected.issuer": String = None, Any, High, ReadOnly,
        "Issuer that a token must name";
    "sasl.oauthbearer.jwks.endpoint.refresh.ms": Long = Some("3600000"), Any, Low, ReadOnly,
        "Time between two fetches of the provider's keys";
    "sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms": Long = Some("10000"), Any, Low, ReadOnly,
        "Longest pause between attempts to fetch the provider's keys";
    "sasl.oauthbearer.jwks.endpoint.retry.backoff.ms": Long = Some("100"), Any, Low, ReadOnly,
        "First pause between attempts to fetch the provider's keys";
    "sasl.oauthbearer.jwks.endpoint.url": String = None, Any, Medium, ReadOnly,
        "Where the provider publishes its keys";
    "sasl.oauthbearer.jwt.retriever.class": Class = Some("org.apache.kafka.common.security.oauthbearer.DefaultJwtRetriever"),
        Any, Medium, ReadOnly,
        "Class that fetches tokens";
    "sasl.oauthbearer.jwt.validator.class": Class = Some("org.apache.kafka.common.security.oauthbearer.DefaultJwtValidator"),
        Any, Medium, ReadOnly,
        "Class that checks tokens";
    "sasl.oauthbearer.scope": String = None, Any, Medium, ReadOnly,
        "Scope that a token is asked for";
    "sasl.oauthbearer.scope.claim.name": String = Some("scope"), Any, Low, ReadOnly,
        "Name of the scope claim";
    "sasl.oauthbearer.sub.claim.name": String = Some("sub"), Any, Low, ReadOnly,
        "Name of the subject claim";
    "sasl.oauthbearer.token.endpoint.url": String = None, Any, Medium, ReadOnly,
        "Where tokens are fetched from";
}
