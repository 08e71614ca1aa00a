"""How a replay's page looks: light and dark, from a phone to a wide screen.

Text has a contrast of at least 4.5 to what it stands on, and what is drawn at least 3 (WCAG 2.2,
1.4.3 and 1.4.11). What is wider than the screen scrolls within its own frame.
"""

from __future__ import annotations

from diffusion_policy_rt.runtime.trace import Rung

COLOURS = {rung.name.lower(): f'var(--{rung.name.lower()})' for rung in Rung}
LATE, OWN, THEIRS, QUIET, GRID = (
    f'var(--{name})' for name in ('late', 'own', 'theirs', 'quiet', 'line'))
NARROW = 720
"""Width below which a drawing scrolls instead of shrinking on [px]."""
STYLE = f"""
:root{{color-scheme:light dark;--text:#1d2b33;--quiet:#50626c;--page:#f6f7f8;--card:#fff;
--line:#dde3e6;--note:#8a4b08;--own:#264653;--theirs:#b5451b;--late:#c9182b;--fresh:#1f8a7d;
--fewer:#5f8f4e;--cached:#a8770f;--chunk:#457b9d;--hold:#c9651b;--stop:#7d7d7d}}
@media(prefers-color-scheme:dark){{:root{{--text:#dde6ea;--quiet:#9fb0b8;--page:#12181b;
--card:#1a2226;--line:#323e45;--note:#e7a35a;--own:#dde6ea;--theirs:#f4976f;--late:#ff7b85;
--fresh:#2fb3a2;--fewer:#8ab17d;--cached:#e9c46a;--chunk:#6aa5cc;--hold:#f4a261;--stop:#9a9a9a}}}}
body{{font:15px/1.5 system-ui,sans-serif;color:var(--text);background:var(--page);margin:0;
overflow-wrap:anywhere}}
main{{max-width:1100px;margin:auto;padding:24px}}
section{{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:16px 20px;
margin:16px 0}}
h1{{font-size:24px;margin:8px 0}}h2{{font-size:18px;margin:0 0 8px}}
h3{{font-size:15px;margin:24px 0 6px}}
table{{border-collapse:collapse;font-variant-numeric:tabular-nums;overflow-wrap:normal}}
td,th{{padding:3px 12px 3px 0;text-align:right;border-bottom:1px solid var(--line)}}
thead th{{color:var(--quiet)}}tbody th{{font-weight:400}}
th:first-child,.words{{text-align:left}}
.wide{{overflow-x:auto}}.wide:focus-visible{{outline:2px solid var(--chunk);outline-offset:2px}}
svg{{width:100%;min-width:{NARROW}px;height:auto;display:block}}
.note{{color:var(--note)}}.quiet{{color:var(--quiet);font-size:13px}}
@media(max-width:600px){{main{{padding:12px}}section{{padding:12px}}}}
@media print{{svg{{min-width:0}}section{{break-inside:avoid-page}}}}
"""
