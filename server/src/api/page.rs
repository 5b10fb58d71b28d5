//! Long lists, a page at a time.
//!
//! A cursor is opaque to the caller: the key of the last item, in hexadecimal. It holds no state of the hub, so that it is
//! never too old; what came or went meanwhile is simply there or not.

use marey_format::types::{hex, unhex};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;

/// Which page is wanted.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Paging {
    /// `next` of the page before; none for the first.
    #[param(max_length = 512)]
    pub cursor: Option<String>,
    /// Items of a page, at most.
    #[param(minimum = 1, maximum = 500, default = 100)]
    pub limit: Option<u32>,
}

/// One page.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// The `cursor` of the next page; null on the last.
    pub next: Option<String>,
}

impl Paging {
    /// Items of a page.
    ///
    /// # Errors
    /// A limit that is out of range.
    pub(crate) fn limit(&self) -> Result<usize, Problem> {
        match self.limit.unwrap_or(LIMIT_DEFAULT) {
            limit @ 1..=LIMIT_MAX => Ok(limit as usize),
            other => Err(Problem::malformed(format!(
                "a limit of {other}; a page has 1 to {LIMIT_MAX} items"
            ))),
        }
    }

    /// The key after which the page begins.
    ///
    /// # Errors
    /// A cursor that no page gave.
    pub(crate) fn after(&self) -> Result<Option<String>, Problem> {
        let text = |cursor: &String| {
            let bytes = bytes_of(cursor).filter(|_| cursor.len() <= CURSOR_CHARS_MAX)?;
            String::from_utf8(bytes).ok()
        };
        match &self.cursor {
            None => Ok(None),
            Some(cursor) => text(cursor).map(Some).ok_or_else(bad_cursor),
        }
    }

    /// The same where the key is a number.
    ///
    /// # Errors
    /// A cursor that no page gave.
    pub(crate) fn after_number(&self) -> Result<Option<u64>, Problem> {
        let number = |key: String| key.parse().map_err(|_| bad_cursor());
        self.after()?.map(number).transpose()
    }

    /// The page of a list that stands in order of its keys.
    ///
    /// # Errors
    /// As the others.
    pub(crate) fn page<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        key: impl Fn(&T) -> String,
    ) -> Result<Page<T>, Problem> {
        let (after, limit) = (self.after()?, self.limit()?);
        let mut rest = items
            .into_iter()
            .filter(|item| after.as_ref().is_none_or(|after| key(item) > *after));
        let items: Vec<T> = rest.by_ref().take(limit).collect();
        let is_last = rest.next().is_none();
        let next = items.last().filter(|_| !is_last).map(|last| cursor(&key(last)));
        Ok(Page { items, next })
    }
}

/// A cursor behind the item with this key.
pub(crate) fn cursor(key: &str) -> String {
    hex(key.as_bytes())
}

/// A number as a key that sorts as numbers do.
pub(crate) fn number_key(number: u64) -> String {
    format!("{number:020}")
}

fn bytes_of(cursor: &str) -> Option<Vec<u8>> {
    if !cursor.len().is_multiple_of(2) || !cursor.is_ascii() {
        return None;
    }
    let pairs = cursor.as_bytes().chunks(2);
    pairs
        .map(|pair| unhex::<1>(std::str::from_utf8(pair).ok()?).map(|[byte]| byte))
        .collect()
}

fn bad_cursor() -> Problem {
    Problem::malformed("the cursor is not one that a page gave; begin without one")
}

const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 500;
const CURSOR_CHARS_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_a_list_once() {
        let all: Vec<String> = (0..25).map(|n| format!("s-{n:02}")).collect();
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let paging = Paging {
                cursor: cursor.take(),
                limit: Some(10),
            };
            let page = paging.page(all.clone(), String::clone).expect("a page");
            assert!(page.items.len() <= 10);
            seen.extend(page.items);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        for wrong in ["x", "zz", "abc", "ff", "\u{e9}a", &"61".repeat(600)] {
            let paging = Paging {
                cursor: Some(wrong.to_owned()),
                limit: None,
            };
            assert!(paging.after().is_err(), "{wrong}");
        }
        for limit in [0, 501, u32::MAX] {
            let paging = Paging {
                cursor: None,
                limit: Some(limit),
            };
            assert!(paging.limit().is_err(), "{limit}");
        }
    }
}
