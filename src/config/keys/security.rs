//! Broker keys of TLS, SASL, tokens and authorization.

use crate::config::definition::definitions;
use crate::config::validator::Validator::{Any, List, OneOf};
use crate::config::validator::at_least;

definitions! {
    SECURITY:
    "authorizer.class.name": String = Some(""), Any, Low, ReadOnly,
        "Class that decides who may do what; empty allows everything";
    "connection.failed.authentication.delay.ms": Int = Some("100"), at_least(0), Low, ReadOnly,
        "Time a connection stays open after it failed to authenticate";
    "connections.max.reauth.ms": Long = Some("0"), Any, Medium, ReadOnly,
        "Longest life of an authentication before it must be renewed; 0 for ever";
    "delegation.token.expiry.check.interval.ms": Long = Some("3600000"), at_least(1), Low, ReadOnly,
        "Time between two sweeps for expired delegation tokens";
    "delegation.token.expiry.time.ms": Long = Some("86400000"), at_least(1), Medium, ReadOnly,
        "Life of a delegation token before it must be renewed";
    "delegation.token.max.lifetime.ms": Long = Some("604800000"), at_least(1), Medium, ReadOnly,
        "Life of a delegation token that no renewal extends";
    "delegation.token.secret.key": Password = None, Any, Medium, ReadOnly,
        "Secret that delegation tokens are made with; equal on all brokers";
    "principal.builder.class": Class = Some("org.apache.kafka.common.security.authenticator.DefaultKafkaPrincipalBuilder"),
        Any, Medium, PerBroker,
        "Class that makes a principal of what authenticated";
    "sasl.client.callback.handler.class": Class = None, Any, Medium, ReadOnly,
        "Class that answers callbacks of SASL clients";
    "sasl.enabled.mechanisms": List = Some("GSSAPI"),
        List { may_be_empty: true }, Medium, PerBroker,
        "SASL mechanisms that are offered";
    "sasl.jaas.config": Password = None, Any, Medium, PerBroker,
        "Login modules of SASL, in JAAS form";
    "sasl.kerberos.kinit.cmd": String = Some("/usr/bin/kinit"), Any, Medium, PerBroker,
        "Path of kinit";
    "sasl.kerberos.min.time.before.relogin": Long = Some("60000"), Any, Medium, PerBroker,
        "Time between two renewals of a Kerberos ticket";
    "sasl.kerberos.principal.to.local.rules": List = Some("DEFAULT"),
        List { may_be_empty: true }, Medium, PerBroker,
        "Rules that turn Kerberos principals into short names";
    "sasl.kerberos.service.name": String = None, Any, Medium, PerBroker,
        "Kerberos principal that the brokers run as";
    "sasl.kerberos.ticket.renew.jitter": Double = Some("0.05"), Any, Medium, PerBroker,
        "Random share of the time until a Kerberos ticket is renewed";
    "sasl.kerberos.ticket.renew.window.factor": Double = Some("0.8"), Any, Medium, PerBroker,
        "Share of a Kerberos ticket's life after which it is renewed";
    "sasl.login.callback.handler.class": Class = None, Any, Medium, ReadOnly,
        "Class that answers callbacks of a SASL login";
    "sasl.login.class": Class = None, Any, Medium, ReadOnly,
        "Class that does the SASL login";
    "sasl.login.connect.timeout.ms": Int = None, Any, Low, ReadOnly,
        "Longest wait for a connection to the authentication provider";
    "sasl.login.read.timeout.ms": Int = None, Any, Low, ReadOnly,
        "Longest wait for an answer from the authentication provider";
    "sasl.login.refresh.buffer.seconds": Short = Some("300"), Any, Medium, PerBroker,
        "Seconds before expiry in which a login is not renewed";
    "sasl.login.refresh.min.period.seconds": Short = Some("60"), Any, Medium, PerBroker,
        "Fewest seconds between two renewals of a login";
    "sasl.login.refresh.window.factor": Double = Some("0.8"), Any, Medium, PerBroker,
        "Share of a login's life after which it is renewed";
    "sasl.login.refresh.window.jitter": Double = Some("0.05"), Any, Medium, PerBroker,
        "Random share of the time until a login is renewed";
    "sasl.login.retry.backoff.max.ms": Long = Some("10000"), Any, Low, ReadOnly,
        "Longest pause between attempts to log in";
    "sasl.login.retry.backoff.ms": Long = Some("100"), Any, Low, ReadOnly,
        "First pause between attempts to log in";
    "sasl.mechanism.controller.protocol": String = Some("GSSAPI"), Any, High, ReadOnly,
        "SASL mechanism towards controllers";
    "sasl.mechanism.inter.broker.protocol": String = Some("GSSAPI"), Any, Medium, PerBroker,
        "SASL mechanism between brokers";
    "sasl.server.callback.handler.class": Class = None, Any, Medium, ReadOnly,
        "Class that answers callbacks of the SASL server";
    "sasl.server.max.receive.size": Int = Some("524288"), Any, Medium, ReadOnly,
        "Largest SASL message before authentication";
    "security.inter.broker.protocol": String = Some("PLAINTEXT"),
        OneOf(&["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]), Medium, ReadOnly,
        "Security protocol between brokers, where no listener name is given";
    "security.providers": String = None, Any, Low, ReadOnly,
        "Classes that add security algorithms";
    "ssl.allow.dn.changes": Boolean = Some("false"), Any, Low, ReadOnly,
        "Let a keystore be replaced by one with another distinguished name";
    "ssl.allow.san.changes": Boolean = Some("false"), Any, Low, ReadOnly,
        "Let a keystore be replaced by one with other alternative names";
    "ssl.cipher.suites": List = Some(""), List { may_be_empty: true }, Medium, PerBroker,
        "Cipher suites that are offered; empty for the library's choice";
    "ssl.client.auth": String = Some("none"),
        OneOf(&["required", "requested", "none"]), Medium, PerBroker,
        "Whether clients must, may or need not show a certificate";
    "ssl.enabled.protocols": List = Some("TLSv1.2,TLSv1.3"),
        List { may_be_empty: true }, Medium, PerBroker,
        "Versions of TLS that are offered";
    "ssl.endpoint.identification.algorithm": String = Some("https"), Any, Low, PerBroker,
        "How a server's name is checked; empty for not at all";
    "ssl.engine.factory.class": Class = None, Any, Low, PerBroker,
        "Class that makes TLS engines";
    "ssl.key.password": Password = None, Any, Medium, PerBroker,
        "Password of the private key";
    "ssl.keymanager.algorithm": String = Some("SunX509"), Any, Medium, PerBroker,
        "Algorithm of the key manager";
    "ssl.keystore.certificate.chain": Password = None, Any, Medium, PerBroker,
        "Certificate chain in PEM form";
    "ssl.keystore.key": Password = None, Any, Medium, PerBroker,
        "Private key in PEM form";
    "ssl.keystore.location": String = None, Any, Medium, PerBroker,
        "File with the private key and its certificates";
    "ssl.keystore.password": Password = None, Any, Medium, PerBroker,
        "Password of the key store";
    "ssl.keystore.type": String = Some("JKS"), Any, Medium, PerBroker,
        "Format of the key store";
    "ssl.principal.mapping.rules": String = Some("DEFAULT"), Any, Low, ReadOnly,
        "Rules that turn distinguished names into short names";
    "ssl.protocol": String = Some("TLSv1.3"), Any, Medium, PerBroker,
        "Version of TLS that is preferred";
    "ssl.provider": String = None, Any, Medium, PerBroker,
        "Java provider of TLS";
    "ssl.secure.random.implementation": String = None, Any, Low, PerBroker,
        "Java random generator for TLS";
    "ssl.trustmanager.algorithm": String = Some("PKIX"), Any, Medium, PerBroker,
        "Algorithm of the trust manager";
    "ssl.truststore.certificates": Password = None, Any, Medium, PerBroker,
        "Trusted certificates in PEM form";
    "ssl.truststore.location": String = None, Any, Medium, PerBroker,
        "File with the trusted certificates";
    "ssl.truststore.password": Password = None, Any, Medium, PerBroker,
        "Password of the trust store";
    "ssl.truststore.type": String = Some("JKS"), Any, Medium, PerBroker,
        "Format of the trust store";
}
