//! What the HTTP API and the transfer of files take: sections `[api]` and `[media]`.

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// The HTTP API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// Connections that speak HTTP, transfers of files included; more are told to come again. Of one address (IPv6: of one
    /// /64) at most an eighth, and never less than eight.
    pub connections_max: u32,
    /// Requests that are worked on at once; the others wait for their turn.
    pub workers_max: u32,
    /// A request that is not a transfer is answered within so long.
    pub request_timeout_ms: u64,
    /// A connection that sends nothing for so long while it is waited for is closed.
    pub idle_timeout_ms: u64,
    /// How long a login is good, at most eight hours.
    pub token_minutes: u32,
    /// Requests of one user in a minute, in the long run.
    pub user_per_minute: u32,
    /// Requests of one user at once, after a rest.
    pub user_burst: u32,
    /// Requests of one address (IPv6: of one /64) in a minute, in the long run.
    pub address_per_minute: u32,
    /// Requests of one address at once, after a rest.
    pub address_burst: u32,
    /// Requests without a valid token, logins included, of one address in a minute, in the long run.
    pub stranger_per_minute: u32,
    /// Requests without a valid token of one address at once, after a rest.
    pub stranger_burst: u32,
}

/// Whole media files: video, sound, pictures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Media {
    /// Largest file of an admin, in MiB.
    pub admin_file_mib_max: u64,
    /// Largest file of a researcher, in MiB.
    pub researcher_file_mib_max: u64,
    /// Uploads that may be under way.
    pub uploads_open_max: u32,
    /// An upload of which nothing came for so long is thrown away.
    pub upload_idle_hours_max: u32,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            connections_max: 512,
            workers_max: 16,
            request_timeout_ms: 30_000,
            idle_timeout_ms: 60_000,
            token_minutes: 480,
            user_per_minute: 3_000,
            user_burst: 1_200,
            address_per_minute: 6_000,
            address_burst: 2_400,
            stranger_per_minute: 60,
            stranger_burst: 20,
        }
    }
}

impl Default for Media {
    fn default() -> Self {
        Self {
            admin_file_mib_max: 16_384,
            researcher_file_mib_max: 4_096,
            uploads_open_max: 64,
            upload_idle_hours_max: 24,
        }
    }
}

impl Api {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let counts: [(&'static str, u64); 9] = [
            ("api.connections_max", self.connections_max.into()),
            ("api.workers_max", self.workers_max.into()),
            ("api.request_timeout_ms", self.request_timeout_ms),
            ("api.user_per_minute", self.user_per_minute.into()),
            ("api.user_burst", self.user_burst.into()),
            ("api.address_per_minute", self.address_per_minute.into()),
            ("api.address_burst", self.address_burst.into()),
            ("api.stranger_per_minute", self.stranger_per_minute.into()),
            ("api.stranger_burst", self.stranger_burst.into()),
        ];
        for (key, value) in counts {
            if value == 0 {
                return Err(range(key, value, "at least 1"));
            }
        }
        if !(1..=TOKEN_MINUTES_MOST).contains(&self.token_minutes) {
            let must = "between 1 and 480";
            return Err(range("api.token_minutes", self.token_minutes.into(), must));
        }
        if self.idle_timeout_ms <= self.request_timeout_ms {
            let must = "longer than api.request_timeout_ms";
            return Err(range("api.idle_timeout_ms", self.idle_timeout_ms, must));
        }
        Ok(())
    }
}

impl Media {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let sizes = [
            ("media.admin_file_mib_max", self.admin_file_mib_max),
            ("media.researcher_file_mib_max", self.researcher_file_mib_max),
        ];
        for (key, value) in sizes {
            if value > FILE_MIB_MOST {
                return Err(range(key, value, "at most 8388608, which is 8 TiB"));
            }
        }
        if self.upload_idle_hours_max == 0 {
            return Err(range("media.upload_idle_hours_max", 0, "at least 1"));
        }
        Ok(())
    }
}

fn range(key: &'static str, value: u64, must: &'static str) -> ConfigError {
    ConfigError::Range {
        key,
        value: value.to_string(),
        must,
    }
}

/// Eight hours: a working day.
const TOKEN_MINUTES_MOST: u32 = 480;
const FILE_MIB_MOST: u64 = 8 << 20;
