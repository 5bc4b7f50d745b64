// Values under the pointer, or by the arrow keys. They are read from the table below each chart.
for (const plot of document.querySelectorAll('.plot')) {
  const card = plot.closest('.card');
  const heads = [...card.querySelectorAll('thead th')].map((cell) => cell.textContent);
  const rows = [...card.querySelectorAll('tbody tr')];
  const places = rows.map((row) => Number(row.dataset.x));
  if (!rows.length) continue;
  let at = -1, cursor, tip;
  const hide = () => { cursor?.remove(); tip?.remove(); cursor = tip = undefined; at = -1; };
  const show = (index) => {
    if (index === at) return;
    at = index;
    if (!tip) {
      cursor = plot.appendChild(Object.assign(document.createElement('div'), { className: 'cursor' }));
      tip = plot.appendChild(Object.assign(document.createElement('div'), { className: 'tip' }));
      tip.setAttribute('role', 'status');
    }
    const cells = [...rows[at].children].map((cell) => cell.textContent);
    tip.replaceChildren(...cells.map((text, column) => {
      const line = document.createElement(column ? 'div' : 'b');
      line.textContent = column ? `${heads[column]}  ${text}` : `${heads[0]} ${text}`;
      return line;
    }));
    cursor.style.left = `${places[at] * 100}%`;
    const width = plot.clientWidth, x = places[at] * width;
    const left = x + 12 + tip.offsetWidth > width ? x - 12 - tip.offsetWidth : x + 12;
    tip.style.left = `${Math.max(-44, left)}px`;
  };
  plot.addEventListener('pointermove', (event) => {
    const box = plot.getBoundingClientRect(), x = (event.clientX - box.left) / box.width;
    let best = 0;
    places.forEach((place, index) => { if (Math.abs(place - x) < Math.abs(places[best] - x)) best = index; });
    show(best);
  });
  plot.addEventListener('pointerleave', hide);
  plot.addEventListener('blur', hide);
  plot.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === 'Escape') return hide();
    if (!step) return;
    event.preventDefault();
    show(Math.min(rows.length - 1, Math.max(0, at + step)));
  });
}
