//! Precedence, errors that name their place, and the template.

use super::*;

fn parse(text: &str, overrides: &Overrides) -> Result<HubConfig, ConfigError> {
    HubConfig::parse(Path::new("hub.toml"), text, overrides)
}

#[test]
fn flag_over_environment_over_file_over_default() {
    let text = "[limits]\nidle_timeout_ms = 10000\nhello_timeout_ms = 2\nhandshake_timeout_ms = 3\n";
    let mut overrides = Overrides::default().flag("limits.idle_timeout_ms", 30000);
    overrides
        .environment
        .insert("MAREY_LIMITS_IDLE_TIMEOUT_MS".into(), "20000".into());
    overrides
        .environment
        .insert("MAREY_LIMITS_HELLO_TIMEOUT_MS".into(), "21".into());
    overrides
        .environment
        .insert("MAREY_LISTEN_DEVICES".into(), "127.0.0.1:0".into());
    overrides
        .environment
        .insert("MAREY_DIR".into(), "/somewhere".into());
    let config = parse(text, &overrides).expect("valid");
    assert_eq!(config.limits.idle_timeout_ms, 30_000);
    assert_eq!(config.limits.hello_timeout_ms, 21);
    assert_eq!(config.limits.handshake_timeout_ms, 3);
    assert_eq!(config.limits.send_timeout_ms, Limits::default().send_timeout_ms);
    assert_eq!(config.listen.devices.port(), 0);
}

#[test]
fn the_floor_stays_between_its_bounds() {
    let mut disk = Disk::default();
    assert_eq!(disk.floor_bytes(1 << 30), 512 << 20);
    assert_eq!(disk.floor_bytes(100 << 30), 2 << 30);
    assert_eq!(disk.floor_bytes(1 << 50), 10 << 30);
    // More bytes than there are numbers.
    (disk.floor_min_mib, disk.floor_max_mib) = ((1 << 44) - 1, 1 << 44);
    assert_eq!(disk.floor_bytes(1 << 40), ((1 << 44) - 1) << 20);
    let beyond =
        toml::from_str::<HubConfig>("[disk]\nfloor_max_mib = 9223372036854775808\n").expect("a number");
    assert!(beyond.overridden(&Overrides::default()).is_err());
}

#[test]
fn the_template_is_the_default() {
    let template = HubConfig::template();
    assert_eq!(parse(&template, &Overrides::default()), Ok(HubConfig::default()));
    let uncommented: String = template
        .lines()
        .skip(3)
        .map(|l| format!("{}\n", l.trim_start_matches("# ")))
        .collect();
    assert_eq!(
        parse(&uncommented, &Overrides::default()),
        Ok(HubConfig::default())
    );
}

#[test]
fn errors_name_the_place() {
    let line = |text| match parse(text, &Overrides::default()) {
        Err(ConfigError::Line { line, why, .. }) => (line, why),
        other => panic!("{other:?}"),
    };
    let (at, why) = line("[limits]\n\nidle_timeout = 5\n");
    assert_eq!(at, 3);
    assert!(why.contains("idle_timeout"), "{why}");
    assert_eq!(line("[limits]\nidle_timeout_ms = \"5\"\n").0, 2);
    assert_eq!(line("[listen]\ndevices = \"8443\"\n").0, 2);
    let (at, why) = line("[commit]\nack = \"fast\"\n");
    assert!(at == 2 && why.contains("`synced` or `written`"), "{why}");
    assert_eq!(line("[lim").0, 1);

    let range = parse("[limits]\ncredit_bytes = 5\n", &Overrides::default()).expect_err("too little");
    assert!(
        range
            .to_string()
            .starts_with("limits.credit_bytes = 5: it must be at least"),
        "{range}"
    );

    let mut overrides = Overrides::default();
    overrides
        .environment
        .insert("MAREY_LIMITS_IDLE".into(), "5".into());
    let error = parse("", &overrides).expect_err("no such key").to_string();
    assert!(
        error.starts_with("MAREY_LIMITS_IDLE: [limits] has no key \"idle\""),
        "{error}"
    );
    let error =
        parse("", &Overrides::default().flag("limits.idle_timeout_ms", "soon")).expect_err("no number");
    assert_eq!(
        error.to_string(),
        "limits.idle_timeout_ms: \"soon\" is not a whole number"
    );
    assert!(parse("", &Overrides::default().flag("nothing.here", 1)).is_err());
}

#[test]
fn secrets_are_masked_and_their_files_are_not() {
    for (key, secret) in [
        ("passphrase", true),
        ("api_token", true),
        ("signing_key", true),
        ("passphrase_file", false),
        ("idle_timeout_ms", false),
        ("batch_bytes_max", false),
    ] {
        assert_eq!(is_secret(key), secret, "{key}");
    }
    let shown = HubConfig::default().shown().expect("a table");
    assert_eq!(
        toml::from_str::<HubConfig>(&shown.to_string()),
        Ok(HubConfig::default())
    );
}
