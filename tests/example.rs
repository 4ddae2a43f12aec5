//! `rules.example.yaml` is documentation, so it must be true: it reads without a finding, shows every option, and sends
//! each known key somewhere on purpose. Every YAML file we ship reads the same through a second YAML reader.

#![expect(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use halo_relay::catalogue;
use halo_relay::config::{self, Asked, LoadOptions, Secrets, Style, file};
use halo_relay::deliver::Settings;
use halo_relay::model::EventKey;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn example() -> String {
    std::fs::read_to_string(root().join("rules.example.yaml")).unwrap()
}

#[test]
fn the_example_has_no_problem() {
    let report = config::check(&root().join("rules.example.yaml"), &LoadOptions::without_secrets());
    assert!(report.problems.is_empty(), "{}", report.text(Style::Plain));
    assert_eq!(report.exit_code(true), 0);
    let text = report.text(Style::Plain);
    assert!(text.contains("no problems; 2 sources, 4 destinations, 13 rules; revision "), "{text}");
    let severities =
        "severity: 11 of 12 sending rules name one; others, and unrouted events, have that of their kind\n";
    assert!(text.ends_with(severities), "{text}");
    assert_eq!(
        report.json()["summary"]["severities"],
        serde_json::json!({"sending": 12, "named": 11, "default": null})
    );
}

#[test]
fn the_example_shows_every_option() {
    let text = example();
    let options = [
        file::File::FIELDS,
        file::Source::FIELDS,
        file::Destination::FIELDS,
        file::Fallback::FIELDS,
        file::Smtp::FIELDS,
        file::MailApi::FIELDS,
        file::Reference::FIELDS,
        file::Admin::FIELDS,
        file::Retention::FIELDS,
        file::Defaults::FIELDS,
        file::Links::FIELDS,
        file::Rule::FIELDS,
        file::Batch::FIELDS,
        file::Unrouted::FIELDS,
    ];
    for option in options.concat() {
        assert!(text.contains(&format!("{option}:")), "{option} is not in the example");
    }
    // What stands behind a `#` is an option too, and must work when it is uncommented.
    let bot = text.replace("    url: { env: SLACK_SECURITY_URL }", "").replace("\n    # token:", "\n    token:");
    let bot = bot.replace("\n    # channel:", "\n    channel:");
    let bot = bot.replace("\n    # base_url:", "\n    base_url:").replace("\n    # mention:", "\n    mention:");
    let config = config::load_str(&bot, &root().join("rules.yaml"), &LoadOptions::without_secrets());
    let config = config.unwrap_or_else(|problems| panic!("{}", problems.render(Style::Plain)));
    assert!(
        matches!(&config.destinations["sec-slack"].settings, Settings::Slack(slack) if format!("{slack:?}").contains("C0123456789"))
    );
}

/// The other ways for mail to leave, uncommented: each provider with the fields that are its own.
#[test]
fn the_example_shows_every_way_for_mail() {
    let example = example();
    let load = |text: &str| {
        let config = config::load_str(text, &root().join("rules.yaml"), &LoadOptions::without_secrets());
        let config = config.unwrap_or_else(|problems| panic!("{}\n{text}", problems.render(Style::Plain)));
        assert!(config.warnings.is_empty(), "{text}");
        format!("{:?}", config.destinations["compliance"].settings)
    };
    let token = example.replace("# auth: xoauth2", "auth: xoauth2").replace("      # token: {", "      token: {");
    let token = token.replace("      password: { credential: smtp-password }", "");
    assert!(load(&token).contains("Token {"));

    let start = example.find("    smtp:\n").unwrap();
    let end = example.find("    from: Halo relay").unwrap();
    let mut lines = example[start..end].lines().filter_map(|line| line.strip_prefix("    #   "));
    let fields: Vec<String> = lines.by_ref().map(|line| line.trim_start_matches("# ").to_owned()).collect();
    for (provider, own) in [
        ("mailgun", &["key", "domain", "region"][..]),
        ("postmark", &["key", "stream"]),
        ("resend", &["key"]),
        ("sendgrid", &["key"]),
        ("ses", &["region", "access_key_id", "secret_access_key", "session_token"]),
    ] {
        let is_own = |field: &&String| own.contains(&field.split(':').next().unwrap()) || field.starts_with("url:");
        let api: Vec<_> = fields.iter().filter(is_own).map(|field| format!("      {field}\n")).collect();
        let api = api.concat().replace("eu-west-1", if provider == "ses" { "eu-west-1" } else { "eu" });
        let text = format!("{}    api:\n      provider: {provider}\n{api}{}", &example[..start], &example[end..]);
        assert!(load(&text).to_lowercase().contains(&format!("service: {provider}")), "{provider}");
    }
}

#[test]
fn the_example_runs_on_answered_secrets_as_the_demo_does() {
    let answer = |asked: &Asked<'_>| match (asked.field, asked.kind) {
        ("url", kind) => format!("http://127.0.0.1:9/{kind}/{}", asked.name),
        ("secret", _) => "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(),
        _ => "0123456789abcdef".to_owned(),
    };
    let answered = Secrets::Answered(&answer);
    let options = LoadOptions { sources: answered, destinations: answered, variable: &|_| None };
    let config = config::load_str(&example(), Path::new("rules.example.yaml"), &options);
    let config = config.unwrap_or_else(|problems| panic!("{}", problems.render(Style::Plain)));
    let Settings::Teams(teams) = &config.destinations["it-teams"].settings else { panic!("not teams") };
    assert_eq!(teams.url.expose(), "http://127.0.0.1:9/teams/it-teams");
}

/// What each known key does, as a reader of the example would say it.
#[test]
fn the_example_routes_every_known_key() {
    let config = config::load_str(&example(), Path::new("rules.example.yaml"), &LoadOptions::without_secrets());
    let config = config.unwrap_or_else(|problems| panic!("{}", problems.render(Style::Plain)));
    let mut rules_used = BTreeSet::new();
    let mut lines = String::new();
    for known in catalogue::all() {
        let event = catalogue::sample(&EventKey::new(known.key).unwrap());
        let route = config.rules.route(&event);
        let mut owed: Vec<String> = Vec::new();
        for owed_one in &route.owed {
            rules_used.insert(owed_one.rule.as_str().to_owned());
            owed.push(format!("{} ({}, {})", owed_one.destination, owed_one.rule, owed_one.severity));
        }
        if let Some(dropped) = &route.dropped {
            rules_used.insert(dropped.rule.as_str().to_owned());
            owed.push(format!("dropped ({})", dropped.rule));
        }
        assert!(!owed.is_empty(), "{} goes nowhere", known.key);
        writeln!(lines, "{:<30} {}", known.key, owed.join(", ")).unwrap();
    }
    insta::assert_snapshot!(lines);
    let unused: Vec<_> =
        config.rules.rules().iter().map(|rule| rule.name.as_str()).filter(|name| !rules_used.contains(*name)).collect();
    // The samples open port 8443; this rule waits for others.
    assert_eq!(unused, ["remote-access-port"]);
}

/// `serde_yaml`'s kept successor as oracle: no construct of our files is read differently by other YAML readers.
#[test]
fn every_yaml_file_reads_the_same_through_another_reader() {
    let mut files = Vec::new();
    yaml_files(&root(), &mut files);
    assert!(files.iter().any(|path| path.ends_with("rules.example.yaml")), "{files:?}");
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let ours = serde_saphyr::from_str_with_options::<serde_json::Value>(
            &text,
            serde_saphyr::options! {
                strict_booleans: true,
            },
        );
        let theirs = serde_yaml::from_str::<serde_json::Value>(&text);
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => assert_eq!(ours, theirs, "{}", path.display()),
            (Err(_), Err(_)) => {}
            (ours, theirs) => panic!("{}: {:?} {:?}", path.display(), ours.err(), theirs.err()),
        }
    }
}

/// All of the project, without what is built, hidden or bad on purpose.
fn yaml_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !["target", "bad"].contains(&name.as_str()) && !name.starts_with('.') {
            yaml_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            found.push(path);
        }
    }
}

#[test]
fn links_in_the_documentation_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut followed = 0;
    for page in ["README.md", "CHANGELOG.md", "docs/ARCHITECTURE.md", "docs/CONTRIBUTING.md", "docs/TEMPLATES.md"] {
        let page = root.join(page);
        let text = std::fs::read_to_string(&page).unwrap();
        // What stands between backticks is code.
        let text: String = text.split('`').step_by(2).collect();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        for link in links.filter(|link| !link.is_empty() && !link.contains("://")) {
            assert!(page.parent().unwrap().join(link).exists(), "{}: {link}", page.display());
            followed += 1;
        }
    }
    assert!(followed > 4, "only {followed} links found: the search is broken");
}
