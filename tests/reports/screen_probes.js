// What the tests of the screens ask of the page. Boxes are in CSS pixels of the whole page.
function box(element) {
  var r = element.getBoundingClientRect();
  return {x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height};
}
function name(element) { return element.tagName + "." + element.getAttribute("class") + ": " + element.textContent.trim().slice(0, 40); }
function seen(element) { var r = element.getBoundingClientRect(); return r.width > 0 && r.height > 0; }
function scrolls(element) { return element.closest(".scroll, pre") !== null; }
// Elements that reach beyond the screen, those in an area that scrolls by itself apart.
function outside(width) {
  return Array.from(document.body.querySelectorAll("*")).filter(function (e) {
    var r = e.getBoundingClientRect();
    return seen(e) && !scrolls(e) && !e.closest("svg") && (r.right > width + 0.5 || r.left < -0.5);
  }).map(name);
}
// Elements whose text reaches beyond the card that they stand in.
function spilled() {
  return Array.from(document.querySelectorAll("figure *, .card *, .tile *, .box *")).filter(function (e) {
    if (!seen(e) || scrolls(e) || e.closest("svg") || e.matches(".bar i")) { return false; }
    var own = e.getBoundingClientRect(), card = e.closest("figure, .card, .tile, .box").getBoundingClientRect();
    return own.right > card.right + 0.5 || own.left < card.left - 0.5 || own.bottom > card.bottom + 0.5;
  }).map(name);
}
function unfold() { document.querySelectorAll("details").forEach(function (d) { d.open = true; }); }
function rgba(text) {
  var found = text.match(/[\d.]+/g);
  return found ? found.map(Number).concat(found.length === 3 ? [1] : []) : [0, 0, 0, 0];
}
function over(top, below) { return [0, 1, 2].map(function (i) { return top[i] * top[3] + below[i] * (1 - top[3]); }).concat([1]); }
function ground(element) {
  var layers = [];
  for (var e = element; e; e = e.parentElement) {
    var c = rgba(getComputedStyle(e).backgroundColor);
    if (c[3] > 0) { layers.push(c); }
    if (c[3] === 1) { break; }
  }
  var dark = matchMedia("(prefers-color-scheme: dark)").matches;
  return layers.reverse().reduce(function (below, top) { return over(top, below); }, dark ? [18, 18, 18, 1] : [255, 255, 255, 1]);
}
function luminance(c) {
  var v = c.slice(0, 3).map(function (x) { x /= 255; return x <= 0.04045 ? x / 12.92 : Math.pow((x + 0.055) / 1.055, 2.4); });
  return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2];
}
function contrast(a, b) {
  var x = luminance(a), y = luminance(b);
  return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
}
// Every piece of text with its contrast to what is behind it (WCAG 2) and its size in pixels of the screen.
function texts() {
  var walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), out = [];
  while (walker.nextNode()) {
    var node = walker.currentNode, e = node.parentElement;
    if (!node.data.trim() || !seen(e) || e.closest("script, style")) { continue; }
    var style = getComputedStyle(e), svg = e.closest("svg"), behind = ground(svg ? svg.parentElement : e);
    var colour = rgba(svg ? style.fill : style.color), scale = 1;
    if (svg && svg.viewBox.baseVal.width) { scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width; }
    out.push({text: node.data.trim().slice(0, 30), contrast: contrast(over(colour, behind), behind), drawn: !!svg,
              size: parseFloat(style.fontSize) * scale, where: e.tagName + "." + (e.getAttribute("class") || "")});
  }
  return out;
}
// The figures, with the solid colours of what they draw for methods.
function figures() {
  return Array.from(document.querySelectorAll("figure > svg[role=img]")).map(function (svg) {
    var used = new Set((svg.outerHTML.match(/var\(--m\d+\)/g) || []));
    var all = Array.from(svg.querySelectorAll("*")), colours = [];
    used.forEach(function (variable) {
      var e = all.find(function (one) {
        var style = getComputedStyle(one), text = one.outerHTML;
        return one.children.length === 0 && text.indexOf(variable) >= 0 && Number(style.fillOpacity) === 1 && Number(style.opacity) === 1;
      });
      if (!e) { return; }
      var style = getComputedStyle(e), text = e.outerHTML;
      var stroke = text.indexOf("stroke: " + variable) >= 0 || text.indexOf('stroke="' + variable) >= 0;
      colours.push(rgba(stroke ? style.stroke : style.fill).slice(0, 3));
    });
    return {title: svg.getAttribute("aria-label"), box: box(svg), colours: colours};
  });
}
function boxes(selector) {
  return Array.from(document.querySelectorAll(selector)).map(function (e) {
    return {box: box(e), text: e.innerText.replace(/\s+/g, " ")};
  });
}
function column(table, index) {
  return Array.from(document.querySelectorAll("table.sortable")[table].tBodies[0].rows).map(function (row) { return row.cells[index].dataset.sort; });
}
function state(table, index) {
  var heads = Array.from(document.querySelectorAll("table.sortable")[table].tHead.rows[0].cells);
  return {values: column(table, index), aria: heads.map(function (head) { return head.getAttribute("aria-sort"); })};
}
function sort(table, index) {
  document.querySelectorAll("table.sortable")[table].tHead.rows[0].cells[index].querySelector("button").click();
  return state(table, index);
}
function number(text) { return parseFloat(text.replace("−", "-")); }
function forest() {
  return Array.from(document.querySelectorAll(".forest li:not(.axis)")).map(function (line) {
    var zero = line.querySelector(".zero").getBoundingClientRect(), dot = line.querySelector(".dotat").getBoundingClientRect();
    var ci = line.querySelector(".ci"), ends = line.querySelector(".diff span").textContent.split(" to ");
    var r = ci ? ci.getBoundingClientRect() : null;
    return {difference: number(line.querySelector(".diff b").textContent), zero: zero.x, dot: dot.x + dot.width / 2,
            low: ci ? number(ends[0]) : null, high: ci ? number(ends[1]) : null, left: r && r.left, right: r && r.right};
  });
}
