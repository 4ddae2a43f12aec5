//! Amazon's request signature, version 4, as much of it as a POST without a query needs.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>
//!
//! Written here and not taken from `aws-sigv4`, which brings a dozen crates of a runtime for these few lines.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::model::Timestamp;

pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    /// Plain: nothing in it needs to be encoded.
    pub(super) path: &'a str,
    /// Those to sign, names in lower case and in their order; values without space around or twice within.
    pub(super) headers: &'a [(&'a str, String)],
    pub(super) body: &'a [u8],
}

pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// A moment as the signature writes it.
pub(super) struct Date {
    /// `20150830T123600Z`, also the value of `x-amz-date`.
    pub(super) time: String,
    day: String,
}

impl Date {
    pub(super) fn of(now: Timestamp) -> Self {
        let moment = jiff::Timestamp::from_millisecond(now.as_millis()).unwrap_or_default();
        Self { time: moment.strftime("%Y%m%dT%H%M%SZ").to_string(), day: moment.strftime("%Y%m%d").to_string() }
    }
}

/// The value of `authorization`; `key` is the id and the secret.
pub(super) fn authorization(request: &Request<'_>, scope: &Scope<'_>, key: (&str, &str), date: &Date) -> String {
    let headers = request.headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect::<Vec<_>>().concat();
    let names = request.headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let Request { method, path, .. } = request;
    let canonical = format!("{method}\n{path}\n\n{headers}\n{names}\n{}", hex(&Sha256::digest(request.body)));
    let credential = format!("{}/{}/{}/aws4_request", date.day, scope.region, scope.service);
    let signed = format!("AWS4-HMAC-SHA256\n{}\n{credential}\n{}", date.time, hex(&Sha256::digest(canonical)));
    let (id, secret) = key;
    let steps = [date.day.as_str(), scope.region, scope.service, "aws4_request", &signed];
    let signature = steps.iter().fold(format!("AWS4{secret}").into_bytes(), |key, step| hmac(&key, step));
    format!("AWS4-HMAC-SHA256 Credential={id}/{credential}, SignedHeaders={names}, Signature={}", hex(&signature))
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    // A key of any length is one.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: (&str, &str) = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");

    fn sign(service: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
        let date = Date::of(Timestamp::from_millis(1_440_938_160_000));
        assert_eq!(date.time, "20150830T123600Z");
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let request = Request { method: "POST", path, headers: &headers, body: body.as_bytes() };
        authorization(&request, &Scope { region: "us-east-1", service }, KEY, &date)
    }

    /// `post-vanilla` and `post-x-www-form-urlencoded` of the suite that Amazon publishes:
    /// <https://github.com/awslabs/aws-c-auth/tree/main/tests/aws-signing-test-suite>.
    #[test]
    fn published_vectors() {
        let (host, date) = (("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z"));
        assert_eq!(
            sign("service", "/", &[host, date], ""),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, \
             Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
        );
        let form = ("content-type", "application/x-www-form-urlencoded");
        assert_eq!(
            sign("service", "/", &[form, host, date], "Param1=value1"),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
        );
    }

    /// What Amazon's own client for Python makes of the requests that we send.
    #[test]
    fn as_botocore_signs() {
        let path = "/v2/email/outbound-emails";
        let json = ("content-type", "application/json");
        let (host, date) = (("host", "email.us-east-1.amazonaws.com"), ("x-amz-date", "20150830T123600Z"));
        let token = ("x-amz-security-token", "TOKEN/EXAMPLE==");
        let signature = sign("ses", path, &[json, host, date], r#"{"a":1}"#);
        assert!(signature.ends_with("b48ff115b086c4be24c0ac0d653f96545531446fa8904fa7d739e5a1a61e34c9"), "{signature}");
        let signature = sign("ses", path, &[json, host, date, token], r#"{"a":1}"#);
        assert!(signature.ends_with("d5ce419148473040f3bab806dbd83f6fc5804972ba69efdd16eb0ae5c01e0f01"), "{signature}");
    }
}
