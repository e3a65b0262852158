"""The style sheet of report pages: light and dark, phone and print."""

MOST_GROUPS = 12  # that a gallery can be filtered by


def _group_rules() -> str:
    places = range(1, MOST_GROUPS + 1)
    hidden = [f".in-{place}:checked ~ .samples .sample:not(.group-{place})" for place in places]
    shown = [
        f".show-{verdict}:checked ~ .in-{place}:checked ~ .none-{verdict}-{place}"
        for verdict in ("no", "yes")
        for place in places
    ]
    return f"{', '.join(hidden)} {{ display: none; }}\n{', '.join(shown)} {{ display: block; }}\n"


_RULES = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #14181f; --soft: #58616f; --line: #e0e4ea; --faint: #eef1f5;
  --accent: #0b6e99; --accent-soft: #d5e8f1; --good: #1a7f4b; --good-soft: #def3e6; --bad: #b3372c;
  --bad-soft: #fbe5e2; --grid: #e6e9ee; --shadow: 0 1px 2px rgb(20 24 31 / .06), 0 4px 14px rgb(20 24 31 / .05);
  --s0: #0b6e99; --s1: #c2571a; --s2: #5b4bb7; --s3: #1a7f4b; --s4: #a8327d; --s5: #7a6200;
  --heat-right: #56a8d0; --heat-wrong: #e8935a; --heat-mixed: #9aa3b0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1216; --card: #181c22; --ink: #e7ebf0; --soft: #9aa5b3; --line: #2a3039; --faint: #20252d;
    --accent: #5db6de; --accent-soft: #17394a; --good: #63c990; --good-soft: #163325; --bad: #f0897e;
    --bad-soft: #42201d; --grid: #262c35; --shadow: none;
    --s0: #5db6de; --s1: #f0965c; --s2: #a99cf5; --s3: #63c990; --s4: #ea85c2; --s5: #d8bf55;
    --heat-right: #1f6f96; --heat-wrong: #a5521f; --heat-mixed: #58616f;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
header { margin-bottom: 28px; }
.eyebrow { margin: 0 0 6px; color: var(--accent); font-size: 13px; font-weight: 600; letter-spacing: .04em; }
h1 { margin: 0; font-size: clamp(26px, 4vw, 36px); line-height: 1.15; letter-spacing: -.02em; overflow-wrap: anywhere; }
.lede { margin: 10px 0 0; max-width: 76ch; color: var(--soft); overflow-wrap: anywhere; }
section { margin-top: 36px; }
h2 { margin: 0 0 12px; font-size: 20px; letter-spacing: -.01em; }
.note, .empty { margin: 8px 0 0; color: var(--soft); font-size: 14px; max-width: 90ch; }
h2 + .note { margin: -6px 0 14px; }
.notices { margin: 0; padding: 12px 16px 12px 34px; background: var(--faint); border-radius: 10px; font-size: 14px;
  overflow-wrap: anywhere; }
.cards { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); }
.card, .panel, .sample { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  box-shadow: var(--shadow); }
.card { padding: 16px 18px; }
.card .label { margin: 0; color: var(--soft); font-size: 14px; }
.card .value { margin: 2px 0 0; font-size: 32px; font-weight: 650; line-height: 1.2; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.card .detail { margin: 4px 0 0; color: var(--soft); font-size: 13px; }
.card.main { border-color: var(--accent); }
.card.main .value { color: var(--accent); }
.strip { display: block; width: 100%; height: 12px; margin-top: 10px; }
.strip .track { fill: var(--faint); } .strip .fill { fill: var(--accent-soft); }
.strip .span { fill: var(--accent); opacity: .55; } .strip .point { fill: var(--accent); }
.panel { padding: 16px 18px; }
.panels { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.panels > * { margin: 0; min-width: 0; }
figcaption { margin-bottom: 8px; font-weight: 600; font-size: 17px; }
figcaption .note { margin: 0; font-weight: 400; }
.chart { display: block; width: 100%; max-width: 660px; height: auto; margin: 0 auto; }
.chart.parallel { max-width: none; }
.chart .grid { stroke: var(--grid); } .chart .axis { stroke: var(--soft); }
.chart text { fill: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
.series .line { fill: none; stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
.series .mark { stroke: var(--card); stroke-width: 1.2; }
.s0 .line { stroke: var(--s0); } .s0 .mark { fill: var(--s0); }
.s1 .line { stroke: var(--s1); stroke-dasharray: 7 4; } .s1 .mark { fill: var(--s1); }
.s2 .line { stroke: var(--s2); stroke-dasharray: 2 4; } .s2 .mark { fill: var(--s2); }
.s3 .line { stroke: var(--s3); stroke-dasharray: 10 3 2 3; } .s3 .mark { fill: var(--s3); }
.s4 .line { stroke: var(--s4); stroke-dasharray: 5 5; } .s4 .mark { fill: var(--s4); }
.s5 .line { stroke: var(--s5); stroke-dasharray: 12 4; } .s5 .mark { fill: var(--s5); }
.parallel .line { fill: none; stroke: var(--s0); stroke-width: 1.4; opacity: .45; }
.parallel .best .line { stroke: var(--s1); stroke-width: 2.8; opacity: 1; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 8px; padding: 0; list-style: none;
  font-size: 14px; }
.legend li { display: flex; align-items: center; gap: 7px; }
.swatch { width: 34px; height: 14px; flex: none; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: 15px; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 9px; text-align: left; border-bottom: 1px solid var(--line); vertical-align: middle; }
th { color: var(--soft); font-size: 13px; font-weight: 600; white-space: nowrap; }
tbody tr:last-child > * { border-bottom: 0; }
td.number, th.number { text-align: right; white-space: nowrap; }
td { overflow-wrap: break-word; } td:last-child { white-space: nowrap; }
td.bar { width: 60%; min-width: 250px; }
td.bar > div { display: flex; align-items: center; gap: 10px; }
td.bar .strip { margin: 0; flex: 1; min-width: 70px; }
td.bar span { flex: none; width: 62px; text-align: right; white-space: nowrap; }
td.bar .between { width: 96px; text-align: left; color: var(--soft); font-size: 13px; }
.protocols th[scope="row"] { color: var(--ink); font-size: 15px; white-space: normal; min-width: 150px;
  max-width: 44ch; vertical-align: top; }
.protocols .rule { margin: 1px 0 0; color: var(--soft); font-size: 13px; font-weight: 400; line-height: 1.35; }
.protocols td { vertical-align: top; }
.protocols td:not(:nth-child(2)) { white-space: nowrap; }
.protocols .value { min-width: 170px; } .protocols .value strong { font-weight: 650; }
.protocols .between { color: var(--soft); font-size: 13px; }
.protocols .strip { height: 10px; margin-top: 5px; max-width: 220px; }
.falls, .stays { margin: 1px 0 0; font-size: 13px; } .falls { color: var(--good); } .stays { color: var(--bad); }
.maps { display: flex; flex-wrap: wrap; }
.maps > figure { flex: 1 1 auto; min-width: min(100%, 250px); max-width: 100%; }
.maps figcaption { width: 0; min-width: 100%; }
.confusion { display: block; max-width: 100%; height: auto; }
.confusion text { fill: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
.confusion .down, .confusion .count { fill: var(--ink); }
.confusion .count { font-size: 12px; }
.cell .ground { fill: var(--faint); } .cell.right .shade { fill: var(--heat-right); }
.cell.wrong .shade { fill: var(--heat-wrong); } .cell.mixed .shade { fill: var(--heat-mixed); }
.key { padding: 1px 7px; border-radius: 4px; color: var(--ink); } .key.right { background: var(--heat-right); }
.key.wrong { background: var(--heat-wrong); } .key.mixed { background: var(--heat-mixed); }
.filter input { position: absolute; opacity: 0; }
.filter label { display: inline-block; margin: 0 8px 14px 0; padding: 6px 14px; border: 1px solid var(--line);
  border-radius: 99px; background: var(--card); font-size: 14px; cursor: pointer; }
.filter input:checked + label { background: var(--ink); border-color: var(--ink); color: var(--page); }
.filter input:focus-visible + label { outline: 2px solid var(--accent); outline-offset: 2px; }
.show-no:checked ~ .samples .yes, .show-yes:checked ~ .samples .no { display: none; }
.filter > .empty { display: none; }
.samples { display: grid; align-items: start; gap: 16px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); }
.sample { display: grid; grid-template-columns: 172px 1fr; overflow: hidden; }
.sample.yes { border-left: 4px solid var(--good); } .sample.no { border-left: 4px solid var(--bad); }
.picture { display: flex; align-items: flex-start; justify-content: center; min-height: 150px; background: #0b0d10; }
.picture img { display: block; width: 100%; max-height: 256px; object-fit: contain; }
.picture.missing { align-items: center;
  background: repeating-linear-gradient(135deg, var(--faint) 0 9px, var(--card) 9px 18px); }
.picture.missing span { padding: 2px 8px; border-radius: 6px; background: var(--card); color: var(--soft);
  font-size: 13px; }
.words { padding: 12px 16px 14px; min-width: 0; }
.head { display: flex; flex-wrap: wrap; align-items: center; gap: 6px; margin: 0 0 8px; font-size: 12.5px; }
.tag, .verdict { padding: 1px 9px; border-radius: 99px; background: var(--faint); color: var(--soft); }
.verdict { font-weight: 650; }
.yes .verdict { background: var(--good-soft); color: var(--good); }
.no .verdict { background: var(--bad-soft); color: var(--bad); }
.tag { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
.facts-line { flex: 1; min-width: 0; color: var(--soft); overflow-wrap: anywhere; }
.question { margin: 0 0 8px; font-weight: 600; white-space: pre-line; overflow-wrap: anywhere; }
.sample dl { margin: 0; font-size: 15px; }
.sample dt { color: var(--soft); font-size: 12.5px; }
.sample dd { margin: 0 0 8px; white-space: pre-line; overflow-wrap: anywhere; }
.sample dd:last-child { margin: 0; }
del, ins { border-radius: 3px; padding: 0 2px; }
del { background: var(--accent-soft); text-decoration: underline dotted 2px; text-underline-offset: 3px; }
ins { background: var(--bad-soft); text-decoration: underline wavy 1px; text-underline-offset: 3px; }
.options { margin: 0; padding: 0; list-style: none; font-size: 15px; }
.options li { margin: 0 0 4px; padding: 3px 8px 3px 28px; text-indent: -20px; border: 1.5px solid transparent;
  border-radius: 8px; overflow-wrap: anywhere; }
.options .sign { display: inline-block; width: 20px; text-indent: 0; color: var(--bad); font-weight: 700; }
.options .right { background: var(--good-soft); } .options .right .sign { color: var(--good); }
.options .chosen { border-color: var(--bad); } .options .right.chosen { border-color: var(--good); }
.options .mark { color: var(--soft); font-size: 12.5px; white-space: nowrap; }
.said { margin: 8px 0 0; font-size: 14px; overflow-wrap: anywhere; }
.said > span:first-child { color: var(--soft); font-size: 12.5px; }
.none, .more { color: var(--soft); font-style: italic; }
details { font-size: 14px; } summary { cursor: pointer; font-weight: 600; font-size: 16px; }
.facts { display: grid; grid-template-columns: minmax(120px, max-content) 1fr; gap: 4px 20px; margin: 14px 0 0; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; font-family: ui-monospace, "SF Mono", Menlo, Consolas,
  "Liberation Mono", monospace; font-size: 13px; }
@media (max-width: 640px) {
  main { padding: 24px 14px 48px; } section { margin-top: 28px; }
  .cards { grid-template-columns: 1fr 1fr; gap: 10px; } .card { padding: 12px 14px; } .card .value { font-size: 25px; }
  .sample { grid-template-columns: 1fr; } .picture { min-height: 90px; } .picture img { max-height: 230px; }
  .panel { padding: 12px; } th, td { padding: 7px 8px; } .facts { grid-template-columns: 1fr; gap: 0; }
  .facts dd { margin-bottom: 8px; }
  .confusion.wide text { font-size: 14.5px; } .confusion.wide .count { font-size: 13.5px; }
  .protocols thead { display: none; }
  .protocols tr { display: block; padding: 10px 0; border-bottom: 1px solid var(--line); }
  .protocols tr:last-child { border-bottom: 0; }
  .protocols th[scope="row"] { display: block; padding: 0 0 4px; border: 0; max-width: none; }
  .protocols td { display: grid; grid-template-columns: 110px 1fr; padding: 2px 0; border: 0; }
  .protocols td > * { grid-column: 2; } .protocols td::before { content: attr(data-label); color: var(--soft);
    font-size: 13px; }
}
@media print {
  :root { --page: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --shadow: none; }
  body { font-size: 11pt; } main { max-width: none; padding: 0; }
  .cards { grid-template-columns: repeat(4, 1fr); gap: 8px; } .card { padding: 10px; } .card .value { font-size: 20pt; }
  .card, .sample, figure, tr { break-inside: avoid; } h2 { break-after: avoid; }
  .filter label { display: none; } .samples { grid-template-columns: 1fr 1fr; gap: 8px; }
  .sample { grid-template-columns: 110px 1fr; } .picture { min-height: 0; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

STYLE = _RULES + _group_rules()
