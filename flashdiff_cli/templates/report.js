for (const pair of document.querySelectorAll('.pair')) {
  const slider = pair.querySelector('input');
  if (slider) slider.addEventListener('input', () => pair.style.setProperty('--at', slider.value + '%'));
}
for (const head of document.querySelectorAll('th')) {
  const button = head.querySelector('button');
  if (!button) continue;
  button.addEventListener('click', () => {
    const column = [...head.parentNode.children].indexOf(head);
    const down = head.getAttribute('aria-sort') === 'ascending';
    for (const other of head.parentNode.children) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const body = head.closest('table').tBodies[0];
    const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const rows = [...body.rows].sort((a, b) => {
      const x = value(a), y = value(b), p = Number(x), q = Number(y);
      // What has no value stays at the end either way.
      if (x === '' || y === '') return (x === '') - (y === '');
      const order = Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q;
      return down ? -order : order;
    });
    body.append(...rows);
  });
}
