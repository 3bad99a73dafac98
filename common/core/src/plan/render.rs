//! Plans as text: for `--plan`, for logs, and for tests that a reviewer can read.

use super::backup::{BackupPlan, Source, Work};
use super::inventory::Inventory;
use crate::units::ByteCount;
use std::fmt::Write;

pub fn render_backup_plan(plan: &BackupPlan, inventory: &Inventory) -> String {
    let mut text = String::new();
    render(plan, inventory, &mut text).expect("writing to a string cannot fail");
    text
}

fn render(plan: &BackupPlan, inventory: &Inventory, out: &mut String) -> std::fmt::Result {
    let (units, size) = (plan.units.len(), ByteCount(plan.unit_size));
    writeln!(out, "unit size {size}, {units} units, {}", ByteCount(inventory.bytes()))?;
    for (number, unit) in plan.units.iter().enumerate() {
        let source = match (unit.last, unit.source) {
            (true, _) => "last",
            (false, Source::Primary) => "primary",
            (false, Source::Any) => "any",
        };
        write!(out, "{number:6} {:>9}  {source:7}  ", ByteCount(unit.bytes).to_string())?;
        match &unit.work {
            Work::Range { file, offset, length } => {
                writeln!(out, "{} {offset}+{length}", inventory.path(*file))?
            }
            Work::Files(files) => match files.as_slice() {
                [only] => writeln!(out, "{}", inventory.path(*only))?,
                [first, rest @ ..] => writeln!(out, "{} and {} more", inventory.path(*first), rest.len())?,
                [] => writeln!(out, "nothing")?,
            },
        }
    }
    Ok(())
}
