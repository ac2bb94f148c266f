document.querySelectorAll("table.sortable").forEach(function (table) {
  var heads = Array.from(table.tHead.rows[0].cells), body = table.tBodies[0];
  function compare(x, y) {
    var a = Number(x), b = Number(y);
    if (!isNaN(a) && !isNaN(b)) { return a - b; }
    return x.localeCompare(y, "en", {numeric: true});
  }
  heads.forEach(function (head, column) {
    head.querySelector("button").addEventListener("click", function () {
      var sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach(function (other) { other.setAttribute("aria-sort", "none"); });
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      Array.from(body.rows).sort(function (one, two) {
        var x = one.cells[column].dataset.sort, y = two.cells[column].dataset.sort;
        if (x === "" || y === "") { return (x === "") - (y === ""); }  // what is missing stays last, both ways
        return sign * compare(x, y);
      }).forEach(function (row) { body.append(row); });
    });
  });
});
