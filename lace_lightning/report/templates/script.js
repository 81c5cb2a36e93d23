(function () {
  "use strict";
  // Tables: a button in every title sorts the rows. Without this script tables keep the order of the page.
  document.querySelectorAll("table.sortable").forEach(function (table) {
    var body = table.tBodies[0], heads = table.tHead.rows[0].cells;
    function value(row, column) {
      var cell = row.cells[column], text = cell.dataset.value === undefined ? cell.textContent.trim() : cell.dataset.value;
      return { number: text === "" ? NaN : Number(text), text: text };
    }
    Array.prototype.forEach.call(heads, function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      while (head.firstChild) button.appendChild(head.firstChild);
      head.appendChild(button);
      button.addEventListener("click", function () {
        var up = head.getAttribute("aria-sort") !== "ascending";
        Array.prototype.forEach.call(heads, function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        Array.prototype.slice.call(body.rows).sort(function (a, b) {
          var x = value(a, column), y = value(b, column);
          if ((x.text === "") !== (y.text === "")) return x.text === "" ? 1 : -1;
          var order = isNaN(x.number) || isNaN(y.number) ? x.text.localeCompare(y.text) : x.number - y.number;
          return up ? order : -order;
        }).forEach(function (row) { body.appendChild(row); });
      });
    });
  });
  // Charts and tables of a sweep: what stands for one job is shown together.
  // The texts that browsers show without this script would be shown twice.
  document.querySelectorAll("svg.jobs title").forEach(function (title) { title.remove(); });
  var tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  document.body.appendChild(tip);
  function choose(job) {
    document.querySelectorAll(".near").forEach(function (one) { one.classList.remove("near"); });
    document.querySelectorAll("svg.jobs").forEach(function (svg) { svg.classList.toggle("chosen", job !== null); });
    if (job === null) return;
    document.querySelectorAll('[data-job="' + job + '"]').forEach(function (one) { one.classList.add("near"); });
  }
  function at(event) { return event.target.closest ? event.target.closest("[data-job]") : null; }
  document.addEventListener("pointerover", function (event) {
    var one = at(event), inChart = one && one.dataset.tip;
    choose(one ? one.dataset.job : null);
    tip.hidden = !inChart;
    if (inChart) tip.textContent = one.dataset.tip;
  });
  document.addEventListener("pointermove", function (event) {
    if (tip.hidden) return;
    var box = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, window.innerWidth - box.width - 4)) + "px";
    tip.style.top = Math.max(4, Math.min(event.clientY + 14, window.innerHeight - box.height - 4)) + "px";
  });
  document.addEventListener("focusin", function (event) { var one = at(event); choose(one ? one.dataset.job : null); });
  document.addEventListener("click", function (event) {
    var one = at(event);
    if (one && one.dataset.link && one.dataset.tip) window.location.href = one.dataset.link;
  });
  document.addEventListener("keydown", function (event) { if (event.key === "Escape") { choose(null); tip.hidden = true; } });
})();
