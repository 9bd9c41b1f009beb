//! Times in whole milliseconds since 1970, as queues and stores keep them.
//!
//! Invariant: writing and reading a time keeps its millisecond, also before 1970. Every engine
//! truncates in the same way, so that all find the same rows.

use serde::{Deserialize, Deserializer, Serializer, de};
use time::{OffsetDateTime, error::ComponentRange};

const NANOS: i128 = 1_000_000;

/// The millisecond that contains this time.
pub fn of(at: OffsetDateTime) -> i64 {
    whole(at.unix_timestamp_nanos().div_euclid(NANOS))
}

/// The first millisecond that begins at or after this time.
pub fn not_before(at: OffsetDateTime) -> i64 {
    whole(-(-at.unix_timestamp_nanos()).div_euclid(NANOS))
}

/// The beginning of this millisecond.
///
/// # Errors
///
/// The time is outside the range of [`OffsetDateTime`].
pub fn time(millis: i64) -> Result<OffsetDateTime, ComponentRange> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * NANOS)
}

/// Whether RFC 3339 can show the time: it has no years before 0. One such time would make a whole
/// page impossible to return.
pub fn can_be_shown(at: &OffsetDateTime) -> bool {
    at.year() >= 0
}

/// Writes a time as its millisecond.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(of(*at))
}

/// Reads a time that [`can_be_shown`].
///
/// # Errors
/// The number is another time, or the deserializer fails.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OffsetDateTime, D::Error> {
    let at = time(i64::deserialize(deserializer)?).map_err(de::Error::custom)?;
    if !can_be_shown(&at) {
        return Err(de::Error::custom("is before the year 0"));
    }
    Ok(at)
}

pub mod option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use time::OffsetDateTime;

    #[derive(Serialize, Deserialize)]
    struct Time(#[serde(with = "super")] OffsetDateTime);

    /// Writes the time as its millisecond.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(
        at: &Option<OffsetDateTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        at.map(Time).serialize(serializer)
    }

    /// Reads a time as the module above does.
    ///
    /// # Errors
    /// The number is no time that can be shown, or the deserializer fails.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<OffsetDateTime>, D::Error> {
        let at = Option::<Time>::deserialize(deserializer)?;
        Ok(at.map(|Time(at)| at))
    }
}

fn whole(millis: i128) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use time::macros::datetime;

    use super::*;

    #[rstest]
    #[case::whole(datetime!(2026-11-23 12:00:00.007 UTC), 0)]
    #[case::in_between(datetime!(2026-11-23 12:00:00.007_000_001 UTC), 1)]
    #[case::before_1970(datetime!(1969-12-31 23:59:59.999_9 UTC), 1)]
    #[case::first(OffsetDateTime::UNIX_EPOCH, 0)]
    fn a_time_lies_between_two_milliseconds_or_on_one(
        #[case] at: OffsetDateTime,
        #[case] apart: i64,
    ) {
        assert_eq!(not_before(at) - of(at), apart);
        assert!(time(of(at)).unwrap() <= at);
        assert!(time(not_before(at)).unwrap() >= at);
    }

    #[test]
    fn milliseconds_are_read_and_written_unchanged() {
        for millis in [-62_135_596_800_000, -1, 0, 1, 253_402_300_799_999] {
            assert_eq!(of(time(millis).unwrap()), millis);
        }
        assert!(time(i64::MAX).is_err());
    }

    #[test]
    fn no_year_before_0_can_be_shown() {
        assert!(can_be_shown(&datetime!(0000-01-01 0:00 UTC)));
        assert!(!can_be_shown(&datetime!(-0001-12-31 23:59 UTC)));
    }
}
