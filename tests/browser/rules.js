// What is wrong with the page as it stands, for somebody who does not see it or cannot tell colours
// apart. Evaluated in the page by test_access.py; returns sentences.

() => {
  const found = [];
  const say = (rule, node) => found.push(rule + ': ' + node.outerHTML.slice(0, 140));
  const seen = (node) =>
    node.checkVisibility({ opacityProperty: true, visibilityProperty: true }) &&
    !node.closest('[aria-hidden=true]');
  const byId = (ids) =>
    (ids || '')
      .split(/\s+/)
      .filter(Boolean)
      .map((id) => document.getElementById(id));
  const nameOf = (node) =>
    (
      node.getAttribute('aria-label') ||
      byId(node.getAttribute('aria-labelledby'))
        .map((n) => n?.textContent)
        .join(' ') ||
      (node.labels && [...node.labels].map((l) => l.textContent).join(' ')) ||
      node.textContent ||
      node.getAttribute('title') ||
      ''
    ).trim();
  for (const node of document.querySelectorAll(
    'a[href], button, input, select, textarea, summary,' +
      '[role=button], [role=application], [role=img], [role=region], [role=group], dialog',
  ))
    if (seen(node) && !nameOf(node)) say('has no name', node);
  for (const node of document.querySelectorAll(
    '[aria-controls], [aria-labelledby], [aria-describedby]',
  ))
    for (const kind of ['aria-labelledby', 'aria-describedby'])
      if (byId(node.getAttribute(kind)).includes(null)) say(kind + ' leads nowhere', node);
  const ids = [...document.querySelectorAll('[id]')].map((node) => node.id);
  for (const id of new Set(ids))
    if (ids.filter((one) => one === id).length > 1) found.push('id twice: ' + id);
  for (const node of document.querySelectorAll('[tabindex]'))
    if (Number(node.getAttribute('tabindex')) > 0) say('jumps the order of tabs', node);
  for (const node of document.querySelectorAll('table'))
    if (seen(node) && ![...node.querySelectorAll('th')].every((th) => th.scope))
      say('th without scope', node);
  for (const node of document.querySelectorAll('canvas'))
    if (node.getAttribute('role') !== 'img' && !node.closest('[role=img], .map'))
      say('silent canvas', node);
  for (const node of document.querySelectorAll('a[href] a[href], button button, a[href] button'))
    say('a control in a control', node);
  if (document.querySelectorAll('main').length !== 1) found.push('not one main');
  if (!document.documentElement.lang) found.push('no language');
  const levels = [...document.querySelectorAll('main h1, main h2, main h3')]
    .filter(seen)
    .map((node) => Number(node.tagName[1]));
  if (levels.filter((level) => level === 1).length > 1) found.push('two h1');

  const parse = (text) => {
    const [r, g, b, a = 1] = (text.match(/[\d.]+/g) || []).map(Number);
    return /^color\(/.test(text) ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
  };
  const over = ([r, g, b, a], [x, y, z]) => [
    r * a + x * (1 - a),
    g * a + y * (1 - a),
    b * a + z * (1 - a),
    1,
  ];
  const light = (rgb) =>
    rgb
      .slice(0, 3)
      .map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
      .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      if (style.backgroundImage !== 'none') return null; // patterns are looked at by eye
      layers.push(parse(style.backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    return layers
      .reverse()
      .reduce(
        (under, one) => over(one, under),
        parse(getComputedStyle(document.body).backgroundColor),
      );
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || !seen(node) || node.closest('.hidden, .skip, option, :disabled, .log')) continue;
    const box = node.getBoundingClientRect();
    if (!box.width || !box.height) continue;
    const ground = behind(node);
    if (!ground) continue;
    const [a, b] = [light(over(parse(getComputedStyle(node).color), ground)), light(ground)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) say('contrast ' + ratio.toFixed(2) + ' of "' + text.slice(0, 30) + '"', node);
  }
  return [...new Set(found)];
};
