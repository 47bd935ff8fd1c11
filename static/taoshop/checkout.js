// The basket: a running total, and buttons for more and less. The page works without it.
"use strict";

(() => {
  const form = document.getElementById("checkout");
  const total = document.getElementById("total");
  if (!form || !total) return;
  const quantities = [...form.querySelectorAll("input[data-price-cents]")];
  const euros = (cents) => `€${(cents / 100).toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
  form.classList.add("js");

  const count = () => {
    let cents = 0;
    for (const input of quantities) {
      const quantity = Number.isInteger(input.valueAsNumber) ? Math.max(0, input.valueAsNumber) : 0;
      cents += quantity * Number(input.dataset.priceCents);
      input.closest(".product").classList.toggle("chosen", quantity > 0);
    }
    total.textContent = euros(cents);
  };

  form.addEventListener("input", count);
  form.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-step]");
    if (!button) return;
    const input = button.closest(".stepper").querySelector("input");
    const next = (Number.isInteger(input.valueAsNumber) ? input.valueAsNumber : 0) + Number(button.dataset.step);
    input.value = Math.min(Number(input.max), Math.max(0, next));
    count();
  });
  // The server makes one order of a form however often it comes; this only spares the customer the doubt.
  form.addEventListener("submit", () => { form.querySelector("button[type=submit]").disabled = true; });
  window.addEventListener("pageshow", () => { form.querySelector("button[type=submit]").disabled = false; count(); });
})();
