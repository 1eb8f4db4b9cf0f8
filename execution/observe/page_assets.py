"""Style and script of the page. They never change, so that the browser is told their hashes and runs nothing else."""

from __future__ import annotations

import base64
import hashlib

STYLE = """
:root{color-scheme:light dark;--bg:#f4f5f7;--card:#fff;--ink:#1b1f24;--soft:#5b6570;--line:#dfe3e8;--good:#11703c;
--good-bg:#dff3e6;--bad:#a3141d;--bad-bg:#fbe1e2;--warn:#7a4b00;--warn-bg:#fdeecb;--accent:#1f5fbf;--fill:#1f5fbf22}
@media(prefers-color-scheme:dark){:root{--bg:#12151a;--card:#1b2027;--ink:#e6e9ed;--soft:#9aa5b1;--line:#2d343d;
--good:#6fd79a;--good-bg:#153624;--bad:#ff9a9f;--bad-bg:#461a1e;--warn:#f5c869;--warn-bg:#3f3012;--accent:#7fb0ff;
--fill:#7fb0ff22}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1200px;margin:0 auto;padding:16px;display:grid;gap:14px;grid-template-columns:repeat(12,minmax(0,1fr))}
main>*{grid-column:1/-1}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;min-width:0}
h1{font-size:20px;margin:0;letter-spacing:.02em}
h2{font-size:13px;margin:0 0 8px;color:var(--soft);text-transform:uppercase;letter-spacing:.06em;font-weight:600}
header{display:flex;flex-wrap:wrap;align-items:center;gap:8px 12px}
header .about{flex-basis:100%}
p{margin:8px 0 0}
h2+p,h2+.big{margin-top:0}
.spacer{flex:1}
.badge{padding:3px 10px;border-radius:999px;font-weight:600;font-size:14px;white-space:nowrap}
.good{color:var(--good);background:var(--good-bg)}.bad{color:var(--bad);background:var(--bad-bg)}
.warn{color:var(--warn);background:var(--warn-bg)}
.plain{color:var(--ink);background:var(--line)}.live{color:var(--card);background:var(--accent)}
.soft{color:var(--soft)}.mono,code{font-family:ui-monospace,SFMono-Regular,Consolas,Menlo,monospace;font-size:13px}
.unknown{color:var(--soft);font-style:italic}
ul{list-style:none;margin:0;padding:0}
li{padding:7px 0;border-top:1px solid var(--line);overflow-wrap:anywhere}
li:first-child{border-top:0}
.reasons li{display:grid;grid-template-columns:200px 1fr;gap:2px 14px}
.reasons .do{grid-column:2;color:var(--soft)}
.tag{font:600 12px ui-monospace,SFMono-Regular,Consolas,Menlo,monospace;padding:2px 7px;
border-radius:5px;justify-self:start;align-self:start;white-space:nowrap;display:inline-block}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{font-size:12px;font-weight:600;color:var(--soft);text-align:left;padding:0 10px 5px 0;white-space:nowrap}
td{padding:6px 10px 6px 0;border-top:1px solid var(--line);vertical-align:top}
th:last-child,td:last-child{padding-right:0}
.num{text-align:right;white-space:nowrap}
th.num,td.num{padding-right:22px}
.keep{white-space:nowrap}
dl{display:grid;grid-template-columns:max-content 1fr;gap:5px 14px;margin:0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.big{font-size:24px;font-weight:600;margin:0 0 8px;font-variant-numeric:tabular-nums}
progress{appearance:none;-webkit-appearance:none;width:100%;height:7px;border:0;border-radius:4px;display:block;
margin:4px 0 11px;background:var(--line);overflow:hidden}
progress::-webkit-progress-bar{background:var(--line)}
progress::-webkit-progress-value{background:var(--accent)}progress::-moz-progress-bar{background:var(--accent)}
svg{width:100%;height:170px;display:block;border-top:1px solid var(--line);border-bottom:1px solid var(--line);
margin:4px 0}
svg .line{fill:none;stroke:var(--accent);stroke-width:2;stroke-linejoin:round;vector-effect:non-scaling-stroke}
svg .area{fill:var(--fill)}
.ends{display:flex;justify-content:space-between;gap:12px;color:var(--soft);font-size:13px;
font-variant-numeric:tabular-nums}
#lost{grid-column:1/-1}
footer{text-align:center;padding:2px 0 14px}
@media(min-width:760px){.six{grid-column:span 6}.four{grid-column:span 4}.eight{grid-column:span 8}}
@media(max-width:759px){main{padding:10px;gap:10px}.wide{display:none}.card{padding:12px}
th.num,td.num{padding-right:14px}
.reasons li{grid-template-columns:1fr}.reasons .do{grid-column:1}}
"""

SCRIPT = """
(function(){
 "use strict";
 var every=5000,since=null;
 function later(){setTimeout(look,every)}
 function lost(){
  since=since||new Date();
  var note=document.getElementById("lost");
  if(note){note.hidden=false;note.firstElementChild.textContent=
   "No answer since "+since.toLocaleTimeString()+". What is shown is old."}
  later();
 }
 function look(){
  if(document.hidden){return later()}
  var stop=new AbortController(),bell=setTimeout(function(){stop.abort()},8000);
  fetch(location.pathname,{cache:"no-store",signal:stop.signal}).then(function(answer){
   if(!answer.ok){throw new Error("status "+answer.status)}
   return answer.text();
  }).then(function(text){
   var fresh=new DOMParser().parseFromString(text,"text/html"),main=fresh.querySelector("main");
   if(!main){throw new Error("no facts in the answer")}
   document.querySelector("main").replaceWith(document.adoptNode(main));
   document.title=fresh.title;since=null;later();
  }).catch(lost).finally(function(){clearTimeout(bell)});
 }
 later();
})();
"""


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


POLICY = (
    f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: its own style and script, by their hashes, and nothing else."""
