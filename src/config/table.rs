//! Arrays of tables of one kind, each table described key by key: `[[topic]]`, `[[auth.issuers]]`.

use toml::{Spanned, de::DeValue};

use super::keys::{Key, Refusal};

/// One key of such a table.
pub(super) struct TableKey<T: 'static> {
    /// What it means and may be.
    pub key: Key<T>,
    /// What is there as an example in the default file.
    pub example: &'static str,
    /// Whether the table has it.
    pub is_set: fn(&T) -> bool,
}

/// What a table sets: of array `name`, which may hold what `allowed` says.
///
/// # Errors
/// It is no table, or the first thing wrong with it.
pub(super) fn read<T: Default>(
    name: &'static str,
    entry: &Spanned<DeValue<'_>>,
    keys: &'static [TableKey<T>],
    allowed: &str,
) -> Result<T, Refusal> {
    let table = entry.get_ref().as_table().ok_or_else(|| not_allowed(name, entry, allowed.into()))?;
    let mut value = T::default();
    for (key, entry) in table.iter() {
        let known = keys.iter().find(|it| it.key.name() == key.get_ref());
        let known = known.ok_or_else(|| Refusal::Unknown {
            path: format!("{name}.{}", key.get_ref()),
            span: key.span(),
            known: keys.iter().map(|it| it.key.path).collect(),
        })?;
        known.key.set(&mut value, entry)?;
    }
    Ok(value)
}

/// The table inline, with what it sets.
pub(super) fn literal<T>(value: &mut T, keys: &'static [TableKey<T>]) -> String {
    let keys: Vec<_> = keys.iter().filter(|key| (key.is_set)(value)).collect();
    let values = keys.iter().map(|TableKey { key, .. }| format!("{} = {}", key.name(), key.literal(value)));
    format!("{{ {} }}", values.collect::<Vec<_>>().join(", "))
}

/// The refusal of a value, or of a table as a whole.
pub(super) fn not_allowed(path: &str, value: &Spanned<DeValue<'_>>, allowed: String) -> Refusal {
    Refusal::NotAllowed { path: path.into(), span: value.span(), allowed }
}
