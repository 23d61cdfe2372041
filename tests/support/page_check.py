"""What reads badly on a page (WCAG AA), as JavaScript for the browser: contrast, sizes, labels, order of headings, width."""

from __future__ import annotations

CHECK = """
(() => {
  const luminance = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(v => {
    v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b }
  const behind = (e) => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor; if (c !== 'rgba(0, 0, 0, 0)') return c } return 'rgb(255, 255, 255)' }
  const bad = []
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())
    if (!own || !e.offsetParent) continue
    const s = getComputedStyle(e), a = luminance(s.color), b = luminance(behind(e))
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
    if (ratio < 4.5) bad.push(`${e.tagName} ${ratio.toFixed(2)}: ${e.textContent.trim().slice(0, 40)}`)
  }
  for (const e of document.querySelectorAll('button, nav a, input:not([type=hidden]), select')) {
    const r = e.getBoundingClientRect()
    if (r.height && Math.min(r.height, r.width) < (e.type === 'checkbox' ? 20 : 24))
      bad.push(`${e.tagName} is only ${r.height} high`)
    if (e.tagName !== 'BUTTON' && e.tagName !== 'A' && !e.labels.length) bad.push(`${e.tagName} ${e.name} has no label`)
  }
  let level = 1
  for (const e of document.querySelectorAll('h1, h2, h3')) {
    const next = Number(e.tagName[1])
    if (next > level + 1) bad.push(`${e.textContent} skips a level`)
    level = next
  }
  if (document.documentElement.scrollWidth > innerWidth) bad.push('the page scrolls sideways')
  return bad
})()
"""
