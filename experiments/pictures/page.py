"""The report's page: HTML and CSS with nothing external, for screens wide and narrow, light and dark, and for paper."""

STYLE = """\
:root { --page: #f4f6f9; --card: #ffffff; --ink: #1b2430; --muted: #5d6877; --line: #dde2e9; --accent: #2f7fd1; }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #0f1318; --card: #181e26; --ink: #e8ecf2; --muted: #9aa6b5; --line: #2d3643; --accent: #6cb0f5; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  -webkit-text-size-adjust: 100%; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 56px; }
header h1 { margin: 0; font-size: 28px; letter-spacing: -.02em; overflow-wrap: anywhere; }
header p { margin: 2px 0 20px; color: var(--muted); }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin: 0 0 16px; }
.tile, figure, details { background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
.tile { padding: 12px 16px; }
dt { color: var(--muted); font-size: 13px; }
dd { margin: 0; font-size: 24px; font-weight: 650; letter-spacing: -.01em; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; line-height: 1.25; }
small { display: block; color: var(--muted); font-size: 12px; font-weight: 400; letter-spacing: 0;
  line-height: 1.35; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 16px; }
figure { margin: 0; padding: 16px 18px; min-width: 0; }
h2 { margin: 0 0 8px; font-size: 17px; letter-spacing: -.01em; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: inherit !important; }
figcaption { margin-top: 8px; color: var(--muted); font-size: 14px; }
figcaption strong { color: var(--ink); font-weight: 500; }
.empty { margin: 8px 0 0; padding: 24px 16px; border: 1px dashed var(--line); border-radius: 8px; color: var(--muted);
  overflow-wrap: anywhere; }
details { margin-top: 16px; padding: 12px 18px; }
summary { cursor: pointer; font-weight: 600; }
summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; }
code { font: 13px/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; color: var(--ink); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin-top: 10px; font-size: 13px; width: 100%; }
th, td { padding: 4px 12px 4px 0; border-top: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 500; color: var(--muted); white-space: nowrap; }
td { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
@media (max-width: 520px) {
  main { padding: 16px 12px 32px; } dl { grid-template-columns: 1fr 1fr; gap: 8px; }
  dd { font-size: 20px; } figure { padding: 12px; }
}
@media print {
  body { background: none; font-size: 12px; -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  main { padding: 0; max-width: none; } .cards { grid-template-columns: 1fr 1fr; }
  figure, .tile { break-inside: avoid; }
}
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · longctx</title>
<style>
{style}</style>
</head>
<body>
<main>
<header><h1>{title}</h1><p>{subtitle}</p></header>
<dl>
{tiles}
</dl>
<div class="cards">
{cards}
</div>
{details}
</main>
</body>
</html>
"""
