//! Durations and points in time as people write them.

use std::time::Duration;

/// Reads `250ms`, `90s`, `5m`, `2h`, `7d` or, as ISO 8601 has it, `P1DT2H30M5S`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a duration, such as 500ms, 30s, 5m, 2h, 7d or PT1H30M");
    let iso = text.strip_prefix('P');
    let mut rest = iso.unwrap_or(text);
    let mut total = 0.0;
    let mut parts = 0;
    let mut of_day = iso.is_none();
    while !rest.is_empty() {
        if let (Some(_), Some(after)) = (iso, rest.strip_prefix('T')) {
            of_day = true;
            rest = after;
            continue;
        }
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = if iso.is_some() {
            1
        } else {
            rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len())
        };
        let unit = rest.get(..letters).ok_or_else(wrong)?.to_lowercase();
        let seconds = match unit.as_str() {
            "ms" => 0.001,
            "s" if of_day => 1.0,
            "m" if of_day => 60.0,
            "h" if of_day => 3600.0,
            "d" => 86_400.0,
            "w" => 7.0 * 86_400.0,
            _ => return Err(wrong()),
        };
        total += number * seconds;
        parts += 1;
        rest = &rest[letters..];
    }
    if parts == 0 {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(total).map_err(|_| wrong())
}

/// Reads milliseconds since the Unix epoch, or `2026-01-31T12:00:00[.5][Z|+01:00]` (UTC where it
/// does not say).
pub(super) fn timestamp_ms(text: &str) -> Result<i64, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let wrong = || format!("'{text}' is no time, such as 1767225600000 or 2026-01-01T00:00:00Z");
    let read: toml::value::Datetime = text.parse().map_err(|_| wrong())?;
    let date = read.date.ok_or_else(wrong)?;
    let days = days_since_epoch(i64::from(date.year), date.month.into(), date.day.into());
    let mut seconds = days * 86_400;
    let mut millis = 0;
    if let Some(time) = read.time {
        seconds += i64::from(time.hour) * 3600 + i64::from(time.minute) * 60;
        seconds += i64::from(time.second.unwrap_or(0));
        millis = i64::from(time.nanosecond.unwrap_or(0) / 1_000_000);
    }
    if let Some(toml::value::Offset::Custom { minutes }) = read.offset {
        seconds -= i64::from(minutes) * 60;
    }
    Ok(seconds * 1000 + millis)
}

/// Howard Hinnant's days_from_civil, for the Gregorian calendar.
const fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_and_iso_write_them() {
        for (text, ms) in [
            ("250ms", 250),
            ("90s", 90_000),
            ("1.5h", 5_400_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("PT1H30M", 5_400_000),
            ("P1DT1S", 86_401_000),
        ] {
            assert_eq!(duration(text).unwrap().as_millis(), ms, "{text}");
        }
        for wrong in ["", "5", "P", "5x", "s", "P5M", "-1s", "P1\u{e9}"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_utc_unless_they_say_otherwise() {
        for (text, ms) in [
            ("12345", 12_345),
            ("1970-01-01", 0),
            ("2000-03-01T00:00:00Z", 951_868_800_000),
            ("2026-01-01T01:00:00.250+01:00", 1_767_225_600_250),
            ("2024-02-29T23:59:59", 1_709_251_199_000),
        ] {
            assert_eq!(timestamp_ms(text).unwrap(), ms, "{text}");
        }
        assert!(timestamp_ms("noon").is_err());
    }
}
