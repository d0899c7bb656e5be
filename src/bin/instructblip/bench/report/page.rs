//! Results as one page.

use super::numbers::{self, escape, time};
use super::svg::{self, Size, Svg};
use super::{bars, decode, family::Family, roofline, table};
use instructblip::lab::results::{Adapter, ModelResults, Results};

/// The styles of pages; pictures bring their own.
const STYLE: &str = "\
*{box-sizing:border-box}\
body{margin:0;background:var(--page);color:var(--text);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,\
'Helvetica Neue',Arial,sans-serif}\
main{max-width:1320px;margin:0 auto;padding:28px 20px 56px}\
h1{font-size:26px;line-height:1.25;margin:0 0 4px}h2{font-size:18px;margin:36px 0 10px}h3{font-size:15px;margin:18px 0 6px}\
p{margin:0 0 8px}.sub{color:var(--muted)}\
code{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}\
.command{display:block;overflow-x:auto;white-space:pre;background:var(--ground);border:1px solid var(--grid);\
border-radius:8px;padding:8px 12px;margin:12px 0}\
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(172px,1fr));gap:10px;margin:12px 0}\
.tile{background:var(--ground);border:1px solid var(--grid);border-radius:8px;padding:10px 14px}\
.tile b{display:block;font-size:19px;font-weight:600;font-variant-numeric:tabular-nums;white-space:nowrap}\
.tile span{color:var(--muted);font-size:13px}\
.card{background:var(--ground);border:1px solid var(--grid);border-radius:8px;padding:16px;margin:0 0 14px}\
.card svg{display:block;max-width:100%;height:auto;margin:0 auto}.wide svg{width:100%}.narrow{display:none}\
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;color:var(--muted);font-size:13px;margin:0 0 10px}\
.legend i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:6px}\
.scroll{overflow-x:auto;background:var(--ground);border:1px solid var(--grid);border-radius:8px;margin:0 0 14px}\
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}\
th,td{padding:4px 6px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--grid)}\
tbody tr:last-child td{border-bottom:0}th{color:var(--muted);font-weight:600}\
th.l,td.l{text-align:left}tbody tr:hover td{background:var(--page)}\
.fit .scroll{width:fit-content;max-width:100%}.fit td,.fit th{padding-left:28px}\
.sticky td.l{white-space:normal;min-width:84px}\
.sortable th{cursor:pointer}th[aria-sort=ascending]::after{content:' ↑'}th[aria-sort=descending]::after{content:' ↓'}\
.bar{display:inline-block;width:44px;height:8px;border-radius:2px;background:var(--grid);margin-right:8px}\
.value{display:inline-block;min-width:24px}.bar i{display:block;height:8px;border-radius:2px;background:var(--f0)}\
.runs{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:0 14px;margin-top:14px}\
.warning{border:1px solid var(--slower);border-left-width:5px;border-radius:8px;background:var(--ground);\
padding:8px 14px;margin:12px 0}\
.ratio{position:relative;display:block;width:220px;height:12px;background:linear-gradient(var(--axis),var(--axis)) \
center/1px 100% no-repeat}\
.head{display:flex;justify-content:space-between;background:none;height:auto}\
.ratio i{position:absolute;top:2px;height:8px}\
.faster{color:var(--faster)}.slower{color:var(--slower)}.ratio .faster{background:var(--faster)}\
.ratio .slower{background:var(--slower)}.ratio .noise,.ratio .unknown{background:var(--noise)}td.noise{color:var(--muted)}\
@media (max-width:860px){main{padding:18px 12px 40px}h1{font-size:21px}.wide{display:none}.narrow{display:block}\
.card{padding:12px}.tiles{grid-template-columns:repeat(auto-fill,minmax(132px,1fr))}.tile{padding:8px 10px}\
.tile b{font-size:16px}.ratio{width:120px}.head span{white-space:normal;line-height:1.2}.head span+span{text-align:right}\
.sticky td:first-child,.sticky th:first-child{position:sticky;left:0;background:var(--ground);\
white-space:normal;min-width:104px;max-width:150px}}";

/// Sorts a table by the column whose head is clicked: numbers by value, greatest first.
const SORT: &str = "\
document.querySelectorAll('.sortable th').forEach(th=>th.addEventListener('click',()=>{\
const body=th.closest('table').tBodies[0],i=th.cellIndex,text=r=>r.cells[i].dataset.value??r.cells[i].textContent,\
number=!th.classList.contains('l'),down=th.ariaSort?th.ariaSort!=='descending':number,\
value=r=>{const v=parseFloat(text(r));return isNaN(v)?-Infinity:v};\
const rows=[...body.rows].sort((a,b)=>number?value(a)-value(b):text(a).localeCompare(text(b)));\
if(down)rows.reverse();body.append(...rows);\
th.parentNode.querySelectorAll('th').forEach(other=>other.removeAttribute('aria-sort'));\
th.setAttribute('aria-sort',down?'descending':'ascending')}));";

/// A whole page around `body`, which is HTML; `title` is text.
pub fn shell(title: &str, body: &str) -> String {
    let (title, variables, rules) = (escape(title), svg::variables(), svg::rules());
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>{title}</title>\n\
         <style>{variables}{rules}{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n<script>{SORT}</script>\n\
         </body>\n</html>\n"
    )
}

/// A number with what it is.
pub fn tile(name: &str, value: &str) -> String {
    format!("<div class=\"tile\"><b>{}</b><span>{}</span></div>", escape(value), escape(name))
}

/// The adapter in the words of the driver.
pub fn adapter(adapter: &Adapter) -> String {
    let Adapter { backend, driver, kind, .. } = adapter;
    escape(
        &[backend, driver, kind]
            .map(String::as_str)
            .into_iter()
            .filter(|s| !s.is_empty())
            .collect::<Vec<_>>()
            .join(" · "),
    )
}

/// The page.
pub fn html(results: &Results) -> String {
    let Results { version, commit, date, command, .. } = results;
    let mut body =
        format!("<h1>{}</h1>\n<p class=\"sub\">{}</p>\n", escape(&results.adapter.name), adapter(&results.adapter));
    let machine = numbers::machine(&results.machine);
    if !machine.is_empty() {
        body += &format!("<p class=\"sub\">{}</p>\n", escape(&machine));
    }
    let commit = commit.as_ref().map_or(String::new(), |commit| format!(", commit <code>{}</code>", escape(commit)));
    body += &format!("<p class=\"sub\">{}, instructblip {}{commit}</p>\n", escape(date), escape(version));
    body += &format!("<code class=\"command\">{}</code>\n", escape(command));

    let ceilings = numbers::ceilings(&results.ceilings);
    if !ceilings.is_empty() {
        let tiles = ceilings.iter().map(|(name, value)| tile(name, value)).collect::<String>();
        body += &format!("<h2>Ceilings measured in this run</h2>\n<div class=\"tiles\">{tiles}</div>\n");
    }
    if !results.kernels.is_empty() {
        body += &kernels(results);
    }
    if let Some(results) = &results.model {
        body += &model(results);
    }
    if results.kernels.is_empty() && results.model.is_none() {
        body += "<h2>Results</h2>\n<p>Nothing was measured.</p>\n";
    }
    shell(&format!("{} · instructblip bench", results.adapter.name), &body)
}

fn kernels(results: &Results) -> String {
    let mut body = String::new();
    if let (Some(wide), Some(narrow)) = (roofline::draw(results, Size::Wide), roofline::draw(results, Size::Narrow)) {
        body += "<h2>Roofline</h2>\n<p class=\"sub\">Each mark is a kernel at a shape. The lines are what this adapter was \
                 measured to reach: how near a mark comes to them is its share. Labelled are the best and the worst of \
                 each family, where there is room.</p>\n";
        body += &card(&wide, &narrow);
    }
    let table = table::kernels(results).html();
    body += "<h2>Kernels</h2>\n<p class=\"sub\">Cold times are medians with operands rotated past the last cache; rates and \
             shares are theirs. A click on a column sorts by it.</p>\n";
    body + &format!("<div class=\"sortable sticky\">{table}</div>\n")
}

fn model(model: &ModelResults) -> String {
    let mut body = format!("<h2>Model</h2>\n<p>{}</p>\n", escape(&numbers::model(model)));
    if !model.stages.is_empty() {
        let tiles = model.stages.iter().map(|stage| tile(&stage.name, &time(stage.ms))).collect::<String>();
        body += &format!("<div class=\"tiles\">{tiles}</div>\n");
    }
    let prefill = table::prefill(model);
    if !prefill.is_empty() {
        body += &format!("<h2>Prefill</h2>\n<div class=\"sortable fit\">{}</div>\n", prefill.html());
    }
    let steps = table::decode(model);
    if !steps.is_empty() {
        body += "<h2>Decode</h2>\n";
        if let (Some(wide), Some(narrow)) = (decode::draw(model, Size::Wide), decode::draw(model, Size::Narrow)) {
            body += &card(&wide, &narrow);
        }
        body += &format!("<div class=\"sortable fit\">{}</div>\n", steps.html());
    }
    let stages = bars::stages(model);
    if !stages.is_empty() {
        body += "<h2>Time by label</h2>\n<p class=\"sub\">On the device, all launches of a label together.</p>\n";
        body += &legend(model);
    }
    for stage in &stages {
        body += &card(&bars::draw(model, stage, Size::Wide), &bars::draw(model, stage, Size::Narrow));
    }
    if !stages.is_empty() {
        let table = table::labels(model).html();
        body += &format!("<h3>All labels</h3>\n<div class=\"sortable\">{table}</div>\n");
    }
    body
}

/// The legend of the labels' bars.
fn legend(model: &ModelResults) -> String {
    let used = |family: &Family| model.labels.iter().any(|row| Family::of(&row.kernel) == *family);
    let entry = |family: Family| {
        format!("<span><i style=\"background:var(--f{})\"></i>{}</span>", family.index(), family.name())
    };
    let entries = Family::ALL.into_iter().filter(used).map(entry).collect::<String>();
    format!("<div class=\"legend\">{entries}</div>\n")
}

/// One picture for screens and one for phones.
fn card(wide: &Svg, narrow: &Svg) -> String {
    format!(
        "<div class=\"card\"><div class=\"wide\">{}</div><div class=\"narrow\">{}</div></div>\n",
        wide.inline(),
        narrow.inline()
    )
}
