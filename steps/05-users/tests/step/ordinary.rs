//! An ordinary user with a range, with a single id, and with helpers that refuse.

use testing::Check;

pub fn checks() -> Vec<Check> {
    vec![]
}
